"""Merging in training: the working adapter is pulled towards an anchor (MOS, equation 6)."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def merge(stack: Mapping[str, Tensor], anchor: Mapping[str, Tensor], alpha: float) -> dict[str, Tensor]:
    """Return `(1 - alpha) * A + alpha * anchor`, tensor by tensor (MOS, equation 6)."""
    return {name: torch.lerp(tensor, anchor[name], alpha) for name, tensor in stack.items()}


def merge_(stack: Mapping[str, Tensor], anchor: Mapping[str, Tensor], alpha: float) -> None:
    """Write `merge(stack, anchor, alpha)` into the tensors of `stack`, in one fused call."""
    with torch.no_grad():
        torch._foreach_lerp_(list(stack.values()), [anchor[name] for name in stack], alpha)


def effective_alpha(alpha: float, merges: int) -> float:
    """Return the strength of `merges` merges in a row towards the same anchor.

    The published code merges once a block inside `forward`, and once more after the step: on a
    12-block ViT a nominal 0.1 is in effect `effective_alpha(0.1, 13)`.

    >>> round(effective_alpha(0.1, 13), 3)
    0.746
    """
    return 1 - (1 - alpha) ** merges
