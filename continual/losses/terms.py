"""Training losses, as pure functions."""

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


def normalised_logits(logits: Tensor, class_experience: Tensor, temperature: float = 0.1) -> Tensor:
    """Return logits (B, C) divided by `temperature` times the mean length of their parts.

    A part are the logits of one experience's classes; `class_experience` (C,) int64 in [0, T) says whose they
    are. So no class is preferred for the mere size of its head row (SLCA section 3.3, with the mean over
    experiences of the authors' code).
    """
    count = int(class_experience.max()) + 1
    squares = logits.new_zeros(len(logits), count).index_add(1, class_experience, logits.square())
    # The small sum keeps the root's gradient finite at zero.
    lengths = (squares + 1e-14).sqrt()
    return logits / (lengths.mean(-1, keepdim=True) * temperature)
