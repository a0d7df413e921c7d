"""Cross-entropy over the active classes: the loss of every method that trains a head."""

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from continual.losses.base import Batch, LossTerm


class CrossEntropy(LossTerm):
    """Cross-entropy over the active classes; the head rows of the others get no gradient."""

    name: ClassVar[str] = "cross_entropy"

    def __call__(self, batch: Batch) -> Tensor:
        return F.cross_entropy(batch.logits.masked_fill(~batch.active, -torch.inf), batch.targets)
