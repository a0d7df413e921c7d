"""Which pictures tell of a board, and what each of them shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from continual.experiments import heat_maps, pictures
from continual.experiments.pictures import Looks
from continual.metrics import measures
from continual.metrics.accuracy import final
from continual.metrics.calibration import with_probabilities
from continual.metrics.cell import Cell
from continual.metrics.cost import inference_seconds, learning_seconds
from continual.metrics.retrieval import choices, right_stack
from continual.metrics.transformed import consistency, turned

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A figure with a name for its file and a caption."""

    name: str
    caption: str
    figure: Figure
    first: bool = False  #: whether a page shows it at once


def gallery(cells: Sequence[Cell], known: Looks | None = None) -> Iterator[Picture]:
    """Yield the pictures of some cells on the same stream; those that would be empty are left out.

    `known` has the look of every label, so that several galleries can share it.
    """
    band = " Bands are one standard deviation over the seeds." if len({cell.seed for cell in cells}) > 1 else ""
    yield Picture("accuracy", f"Accuracy on all classes seen.{band}", pictures.accuracy(cells, known=known), first=True)
    caption = "Average accuracy against the time to learn the stream: up and left is better."
    yield Picture("cost", caption, pictures.cost(cells, learning_seconds, known), first=True)
    if groups := list(dict.fromkeys(group for cell in cells for group in cell.groups)):
        seen = {final: "untransformed", **{turned.under(group): f"transformed by {group}" for group in groups}}
        caption = f"Accuracy on test images as they are, and transformed by random elements of a group.{band}"
        yield Picture("turned", caption, pictures.panels(cells, seen, "accuracy on classes seen [%]", known=known))
        same = {consistency.under(group): f"transformed by {group}" for group in groups}
        caption = (
            f"Is the symmetry forgotten? Images answered alike as they are and transformed by a random element.{band}"
        )
        yield Picture("consistency", caption, pictures.panels(cells, same, "same answer [%]", (0, 102), known))
    if any(inference_seconds.figure(cell) is not None for cell in cells):
        caption = "Average accuracy against the time of an answer."
        yield Picture("cost-inference", caption, pictures.cost(cells, inference_seconds, known))
    if len(cells[0].evaluations) > 1:
        caption = "Forgetting: the best accuracy an experience had, less that at the end."
        yield Picture("forgetting", caption, pictures.forgetting(cells, known))
    for metric in measures(cells):
        if metric.curve and any(value is not None for cell in cells for value in metric(cell)):
            yield Picture(metric.name, metric.curve, pictures.curves(cells, metric, known))
    if sure := with_probabilities(cells):
        caption = "Reliability at the end; calibration error in brackets. Below the diagonal a method is overconfident."
        yield Picture("reliability", caption, pictures.reliability(sure, known))
    if len(cells[0].evaluations) > 1:
        yield Picture("matrices", "Accuracy matrices [%], the mean over the seeds.", heat_maps.matrices(cells))
    several = [cell for cell in cells if right_stack(cell)[-1] is not None and len(choices(cell)[-1]) > 1]
    if several:
        caption = "Which adapter was chosen at the end, for the images of each experience [%]."
        yield Picture("retrieval", caption, heat_maps.retrieval(several))
