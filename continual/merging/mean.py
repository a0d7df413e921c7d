"""Adapter merging (MOS section 3.1): pure rules that pull a stack towards the finished ones.

All functions take and return mappings from tensor name to tensor and write nothing, except
`merge_`, which is the training loop's in-place form of `merge`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def mean(stacks: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Return the mean of finished stacks, `mean(A_1 ... A_k)`: the anchor of merging.

    Raises ValueError if there is none.
    """
    if not stacks:
        raise ValueError("the mean of no stacks is undefined: pass at least one finished stack")
    return {name: torch.stack([stack[name] for stack in stacks]).mean(0) for name in stacks[0]}


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


def consolidate_mean(stacks: Sequence[Mapping[str, Tensor]]) -> list[dict[str, Tensor]]:
    """Replace every stack k >= 2 by the mean of stacks 1 ... k-1 (all as they were finished).

    This is the state in which the published code's evaluation leaves its stored stacks.
    """
    return [dict(stack) if k == 0 else mean(stacks[:k]) for k, stack in enumerate(stacks)]
