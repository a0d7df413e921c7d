"""Cross-entropy over the active classes: the loss of every method that trains a head."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from continual.losses.base import Batch, LossTerm


class CrossEntropy(LossTerm):
    """Cross-entropy over the active classes; the head rows of the others get no gradient."""

    name: ClassVar[str] = "cross_entropy"

    def __call__(self, batch: Batch) -> Tensor:
        return masked_cross_entropy(batch.logits, batch.targets, batch.active)


def masked_cross_entropy(logits: Tensor, targets: Tensor, active: Tensor) -> Tensor:
    """Return the cross-entropy over the `active` classes only; the others get no gradient.

    Shapes: logits (B, C), targets (B,) int64 of active classes, active (C,) bool. Scalar result.
    """
    return F.cross_entropy(logits.masked_fill(~active, -torch.inf), targets)
