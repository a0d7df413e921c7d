"""The training losses of MOS, as pure functions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def masked_cross_entropy(logits: Tensor, targets: Tensor, active: Tensor) -> Tensor:
    """Return the cross-entropy over the `active` classes only; the others get no gradient.

    Shapes: logits (B, C), targets (B,) int64 of active classes, active (C,) bool. Scalar result.
    """
    return F.cross_entropy(logits.masked_fill(~active, -torch.inf), targets)


def feature_contrast(features: Tensor, class_means: Tensor | None, temperature: float = 0.8) -> Tensor:
    """Push the rows of `M = [class means; features]` away from one another.

    `S = M M^T / temperature`, and the loss is CE(S, arange(rows)): each row should be most like itself.
    It is in MOS's published code, not in the paper's text. Shapes: features (B, D), class means (K, D)
    of earlier experiences or None. Scalar result.
    """
    rows = features if class_means is None else torch.cat([class_means, features])
    similarity = rows @ rows.mT / temperature
    return F.cross_entropy(similarity, torch.arange(len(rows), device=rows.device))
