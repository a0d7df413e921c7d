"""A linear head: one row of weights, and a bias, per class."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import linear

from continual.statistics.fields import per_class


@dataclass(frozen=True)
class Head:
    """Logits (B, C) of features (B, D)."""

    weight: Tensor = per_class()  #: (C, D)
    bias: Tensor = per_class()  #: (C,)

    def __call__(self, features: Tensor) -> Tensor:
        """Return the logits."""
        return linear(features, self.weight, self.bias)
