"""A temperature for the values that decide, from images left out while their features are at hand.

softmax(values / T) are probabilities. T is the likeliest for images that were learned, each with the values it would
have if it had not been. Of earlier experiences a curve over T is kept, which tells no image from another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from continual.statistics.fields import expect_shapes
from continual.uncertainty.tempering import agreeing

#: what T is chosen from: cosines and regression values lie a hundredth to one apart
TEMPERATURES = 10 ** torch.linspace(-4, 1, 161, dtype=torch.float64)


@dataclass(frozen=True)
class Temperature:
    """What images left out say of T. All are tensors."""

    losses: Tensor  #: cross-entropy at each of TEMPERATURES, a sum over images left out
    images: Tensor  #: (), how many those count for
    classes: Tensor  #: (), how many were known then

    def check_shapes(self) -> None:
        """Raise ValueError unless the curve has a number for each T, and the others are single."""
        expect_shapes(self, losses=tuple(TEMPERATURES.shape), images=(), classes=())

    @cached_property
    def value(self) -> float:
        """The likeliest T."""
        return float(TEMPERATURES[int(self.losses.argmin())])

    def probabilities(self, values: Tensor) -> Tensor:
        """Return softmax(values / T) of values (B, C), in which the answer's class is the likeliest."""
        return agreeing((values / self.value).softmax(-1), values)

    def without(self, index: int) -> Temperature:
        """Return the same, which holds for the other classes as well."""
        return self

    def plus(self, other: Temperature) -> Temperature:
        """Return what the images of two models say."""
        return Temperature(
            self.losses + other.losses, self.images + other.images, torch.maximum(self.classes, other.classes)
        )


def joined(parts: Sequence[Temperature | None]) -> Temperature | None:
    """Return what the images of several models say; None where one knows nothing."""
    known = [part for part in parts if part is not None]
    return reduce(Temperature.plus, known) if len(known) == len(parts) else None


def updated(
    before: Temperature | None, values: Tensor, labels: Tensor, weights: Tensor | None = None
) -> Temperature | None:
    """Return what is known of T after images left out, of own classes `labels` (n,), whose values are (n, C).

    Earlier ones count for `fading`. `weights` (n,) is what each image counts for; 1 without. Of no image, or of a
    single class, there is nothing to know: what was known `before` stays.
    """
    classes = values.shape[1]
    if not len(values) or classes < 2:
        return before
    weights = values.new_ones(len(values), dtype=torch.float64) if weights is None else weights.double()
    found = Temperature(
        losses_at(TEMPERATURES, values, labels, weights).double(),
        weights.sum(),
        torch.tensor(float(classes), dtype=torch.float64, device=values.device),
    )
    if before is None:
        return found
    old = fading(before.classes, classes)
    return Temperature(before.losses * old, before.images * old, before.classes).plus(found)


def fading(known: Tensor, classes: int) -> Tensor:
    """Return what images count for, (), that were left out among `known` classes, once there are more."""
    return (known / classes).clamp(max=1).square()


def losses_at(temperatures: Tensor, values: Tensor, labels: Tensor, weights: Tensor | None = None) -> Tensor:
    """Return the cross-entropy of softmax(values / T) at each T, summed over images of values (n, C), by weights (n,).

    A share is for all classes alike: a few images that are all right would ask for T = 0 otherwise.
    """
    smooth, found = 1 / (1 + len(values)), values.new_empty(len(temperatures))
    for place, T in enumerate(temperatures.tolist()):
        # Small tensors kept between large ones would keep their memory from being used again.
        if weights is None:
            found[place] = F.cross_entropy(values / T, labels, label_smoothing=smooth, reduction="sum")
        else:
            each = F.cross_entropy(values / T, labels, label_smoothing=smooth, reduction="none")
            found[place] = each @ weights.to(values)
    return found


def losses_of(temperatures: Tensor, values: Tensor, labels: Tensor, weights: Tensor | None) -> Tensor:
    """Return `losses_at` (..., T) of images by several ways of asking, values (..., n, C)."""
    each = [losses_at(temperatures, one, labels, weights) for one in values.reshape(-1, *values.shape[-2:])]
    return torch.stack(each).reshape(*values.shape[:-2], -1)
