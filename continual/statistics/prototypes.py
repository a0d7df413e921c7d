"""Prototypes: the mean feature of each class, and the cosine to it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cosine_scores(features: Tensor, prototypes: Tensor) -> Tensor:
    """Return the cosine of every feature (B, D) with every prototype (C, D): (B, C)."""
    return F.normalize(features, dim=-1) @ F.normalize(prototypes, dim=-1).mT


def updated_means(
    means: Tensor | None, counts: Tensor | None, features: Tensor, targets: Tensor, classes: int
) -> tuple[Tensor, Tensor]:
    """Return class means (C, D) and counts (C,) after adding `features` (n, D) with class indices (n,).

    `means` and `counts` are those so far, of the first classes, or None.
    """
    total = features.new_zeros(classes, features.shape[1])
    count = torch.zeros(classes, dtype=torch.int64, device=features.device)
    if means is not None and counts is not None:
        total[: len(means)] = means * counts[:, None]
        count[: len(counts)] = counts
    total.index_add_(0, targets, features)
    count += torch.bincount(targets, minlength=classes)
    return total / count[:, None], count
