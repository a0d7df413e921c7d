"""Which pictures tell of a board, and what each of them shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from continual.experiments import pictures
from continual.experiments.results import by_label
from continual.metrics import measures
from continual.metrics.accuracy import final
from continual.metrics.calibration import with_probabilities
from continual.metrics.cell import Cell
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


def gallery(cells: Sequence[Cell]) -> Iterator[Picture]:
    """Yield the pictures of some cells on the same stream; those that would be empty are left out."""
    spread = " Bands are one standard deviation over the seeds." if len({cell.seed for cell in cells}) > 1 else ""
    yield Picture("accuracy", f"Accuracy on all classes seen.{spread}", pictures.accuracy(cells))
    if groups := list(dict.fromkeys(group for cell in cells for group in cell.groups)):
        seen = {final: "untransformed", **{turned.under(group): f"transformed by {group}" for group in groups}}
        caption = f"Accuracy on test images as they are, and transformed by random elements of a group.{spread}"
        yield Picture("turned", caption, pictures.panels(cells, seen, "accuracy on classes seen [%]"))
        same = {consistency.under(group): f"transformed by {group}" for group in groups}
        caption = "Is the symmetry forgotten? Images answered alike as they are and transformed by a random element."
        yield Picture("consistency", caption + spread, pictures.panels(cells, same, "same answer [%]", limits=(0, 102)))
    if len(cells[0].evaluations) > 1:
        caption = "Forgetting: the best accuracy an experience had, less that at the end."
        yield Picture("forgetting", caption, pictures.forgetting(cells))
    for metric in measures(cells):
        if metric.curve and any(value is not None for cell in cells for value in metric(cell)):
            yield Picture(metric.name, metric.curve, pictures.curves(cells, metric))
    if known := with_probabilities(cells):
        caption = "Reliability at the end; calibration error in brackets. Below the diagonal a method is overconfident."
        yield Picture("reliability", caption, pictures.reliability(known))
    for number, (label, alike) in enumerate(by_label(cells).items()):
        if len(alike[0].evaluations) > 1:
            yield Picture(f"matrix-{number}", f"{label}: accuracy matrix [%].", pictures.accuracy_matrix(alike))
    for number, (label, alike) in enumerate(by_label(cells).items()):
        if right_stack(alike[0])[-1] is not None and len(choices(alike[0])[-1]) > 1:
            caption = f"{label}: which stack was chosen at the end, for the images of each [%]."
            yield Picture(f"retrieval-{number}", caption, pictures.retrieval(alike))
