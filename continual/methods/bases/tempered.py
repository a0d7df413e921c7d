"""Methods whose values only rank, and a temperature that makes probabilities of them."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from continual.learning.state import State
from continual.learning.training import Training
from continual.uncertainty.temperature import Temperature, updated


@dataclass(frozen=True)
class TemperedState(State):
    """What images left out said of the temperature."""

    temperature: Temperature | None = None  #: None in files of before, and where every class has a single image

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
