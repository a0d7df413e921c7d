"""Methods whose values only rank, and a temperature that makes probabilities of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from continual.learning.state import State
from continual.learning.training import Progress, Training
from continual.statistics.head import Prototypes, PrototypeSums
from continual.uncertainty.left_out import cosines_left_out
from continual.uncertainty.temperature import Temperature, updated


@dataclass(frozen=True)
class TemperedState(State):
    """What images left out said of the temperature."""

    temperature: Temperature | None = None  #: None in older files, and where every class has a single image

    def probabilities(self, values: Tensor) -> Tensor | None:
        """Return the probabilities (B, C) of values (B, C); None for fewer than two classes, or no temperature."""
        known = self.temperature
        return None if known is None or values.shape[1] < 2 else known.probabilities(values)


def temperature_after(
    training: Training[Any], values: Tensor, labels: Tensor, weights: Tensor | None = None
) -> Temperature | None:
    """Return what is known after an experience, of whose images, left out, the values are (n, C); see `updated`.

    Images that were answered wrong, which `correct` learns, say nothing of what is usual.
    """
    before: Temperature | None = training.before.temperature
    return before if training.correcting else updated(before, values, labels, weights)


def prototypes_after(
    training: Training[Any], read: Callable[[Tensor], Tensor], progress: Progress | None = None
) -> tuple[Prototypes, Temperature | None]:
    """Return the prototypes of all classes after an experience, of features that `read` gives, and the temperature."""
    sums = PrototypeSums(training.before.prototypes, len(training.classes))

    def fold(found: list[Tensor], targets: Tensor) -> list[Tensor]:
        sums.add(found[0], targets)
        return found

    (features,), targets, stands_for = training.streamed(lambda images, _: [read(images)], fold, progress)
    prototypes = sums.prototypes()
    values, labels = cosines_left_out(features, targets, prototypes, training.copies)
    return prototypes, temperature_after(training, values, labels, sampled(values, stands_for))


def sampled(values: Tensor, stands_for: float) -> Tensor | None:
    """Return what the images of values (n, C) weigh, each of which stands for so many; None for 1 each."""
    return None if stands_for == 1 else values.new_full((len(values),), stands_for)
