"""Choosing elements of an orbit by their scores, with a rule for ties that keeps equivariance.

An argmax alone is not equivariant: if two elements tie, which one it returns depends on their order. So
all elements whose score is within a small tolerance of the wanted one are chosen *together*, and the
outputs they give are averaged. For an image that a subgroup leaves fixed this changes nothing in an
invariant answer, and it makes a spatial answer as symmetric as the image.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: How close two scores must be to count as tied, relative to max(1, |score|): a few units of rounding.
TIE_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-2}


def default_tolerance(dtype: torch.dtype) -> float:
    """Return the default tolerance for scores that were computed in `dtype`."""
    return TIE_TOLERANCE.get(dtype, 1e-5)


def best(scores: Tensor, tolerance: float) -> Tensor:
    """Return weights (G, B): 1/t for each of the t elements tied for the highest score (G, B), else 0."""
    tied = top(scores, 1, tolerance).to(torch.promote_types(scores.dtype, torch.float32))
    return tied / tied.sum(0, keepdim=True)


def top(scores: Tensor, count: int, tolerance: float) -> Tensor:
    """Return a mask (G, B) of the `count` highest scores and of all that tie with the last of them."""
    last = scores.topk(count, dim=0).values[-1]
    return scores >= last - tolerance * last.abs().clamp(min=1)
