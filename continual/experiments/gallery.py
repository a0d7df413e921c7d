"""Which pictures tell of a board, and what each of them shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from continual.experiments import pictures
from continual.experiments.results import Cell

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Picture:
    """A figure with a name for its file and a caption."""

    name: str
    caption: str
    figure: Figure


#: of what is drawn against experiences: series, heading, factor, caption
CURVES = (
    ("old_accuracy", "accuracy on old classes [%]", 100, "What is kept: accuracy on all experiences but the newest."),
    ("new_accuracy", "accuracy on new classes [%]", 100, "What is taken in: accuracy on the newest experience."),
    (
        "negative_flips",
        "negative flips [%]",
        100,
        "Answers that were right before an experience and are wrong after it, of all images that could be known.",
    ),
    ("calibration_error", "calibration error [%]", 100, "Expected calibration error (15 bins) of the answers."),
    ("learning_seconds", "learning [s]", 1, "Seconds to learn each experience."),
    ("inference_seconds", "inference [ms/image]", 1000, "Milliseconds to answer an image, with nothing remembered."),
    ("memory", "memory [MiB]", 2**-20, "What is stored beside the frozen backbone."),
)


def gallery(cells: Sequence[Cell]) -> Iterator[Picture]:
    """Yield the pictures of some cells on the same stream; those that would be empty are left out."""
    spread = " Bands are one standard deviation over the seeds." if len({cell.seed for cell in cells}) > 1 else ""
    yield Picture("accuracy", f"Accuracy on all classes seen.{spread}", pictures.accuracy(cells))
    if groups := list(dict.fromkeys(group for cell in cells for group in cell.groups)):
        seen = {"seen_accuracy": "upright", **{f"turned {group}": f"turned by {group}" for group in groups}}
        caption = f"Accuracy on test images as they are, and moved by random elements of a group.{spread}"
        yield Picture("turned", caption, pictures.panels(cells, seen, "accuracy on classes seen [%]"))
        same = {f"consistency {group}": f"moved by {group}" for group in groups}
        caption = f"Is the symmetry forgotten? Images answered alike as they are and moved by a random element.{spread}"
        yield Picture("consistency", caption, pictures.panels(cells, same, "same answer [%]", limits=(0, 102)))
    if len(cells[0].accuracy) > 1:
        caption = "Forgetting: the best accuracy an experience had, less that at the end."
        yield Picture("forgetting", caption, pictures.forgetting(cells))
    for name, heading, factor, caption in CURVES:
        if any(value is not None for cell in cells for value in cell.series()[name]):
            yield Picture(name, caption, pictures.curves(cells, name, heading, factor))
    caption = "Reliability at the end; calibration error in brackets. Below the diagonal a method is overconfident."
    yield Picture("reliability", caption, pictures.reliability(cells))
    labels = list(dict.fromkeys(cell.label for cell in cells))
    for number, label in enumerate(labels):
        alike = [cell for cell in cells if cell.label == label]
        if len(alike[0].accuracy) > 1:
            yield Picture(f"matrix-{number}", f"{label}: accuracy matrix [%].", pictures.accuracy_matrix(alike))
    for number, label in enumerate(labels):
        alike = [cell for cell in cells if cell.label == label]
        if alike[0].confusion and len(alike[0].confusion[-1]) > 1:
            caption = f"{label}: which stack was chosen at the end, for the images of each [%]."
            yield Picture(f"retrieval-{number}", caption, pictures.retrieval(alike))
