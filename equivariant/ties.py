"""Choosing elements of an orbit by their scores, with a rule for ties that keeps equivariance.

An argmax alone is not equivariant: if two elements tie, which one it returns depends on their order. So all elements
whose score is within a small tolerance of the wanted one are chosen *together*, and the outputs they give are averaged.
For an image that a subgroup leaves fixed this changes nothing in an invariant answer, and it makes a spatial answer as
symmetric as the image.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: How close two scores must be to count as tied, relative to max(1, |score|): a few units of rounding.
TIE_TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 1e-2, torch.bfloat16: 1e-2}


def default_tolerance(dtype: torch.dtype) -> float:
    """Return the default tolerance for scores that were computed in `dtype`."""
    return TIE_TOLERANCE.get(dtype, 1e-5)


def best(scores: Tensor, tolerance: float | None = None, dim: int = 0) -> Tensor:
    """Return weights (G, B): 1/t for each of the t elements tied for the highest score (G, B), else 0.

    By default, the tolerance is that of the scores' dtype; `dim` is the axis of the group, here and below.
    """
    tied = top(scores, 1, tolerance, dim).to(torch.promote_types(scores.dtype, torch.float32))
    return tied / tied.sum(dim, keepdim=True)


def top(scores: Tensor, count: int, tolerance: float | None = None, dim: int = 0) -> Tensor:
    """Return a mask (G, B) of the `count` highest scores and of all that tie with the last of them."""
    tolerance = default_tolerance(scores.dtype) if tolerance is None else tolerance
    last = scores.topk(count, dim=dim).values.narrow(dim, count - 1, 1)
    return scores >= last - tolerance * last.abs().clamp(min=1)


def ranks(scores: Tensor, tolerance: float | None = None) -> Tensor:
    """Return the place (G, B) of each score (G, B) in descending order, from 0; scores that tie share a place.

    Neighbours in the order tie if they are within the tolerance, and with them what ties with either.
    """
    tolerance = default_tolerance(scores.dtype) if tolerance is None else tolerance
    sorted_, order = scores.topk(scores.shape[0], dim=0)
    apart = sorted_[:-1] - sorted_[1:] > tolerance * sorted_[:-1].abs().clamp(min=1)
    places = torch.cat([torch.zeros_like(order[:1]), apart.cumsum(0)])
    return torch.zeros_like(order).scatter(0, order, places)


def soft(scores: Tensor, kept: Tensor | None = None, dim: int = 0) -> Tensor:
    """Return weights (G, B) in proportion to exp(scores (G, B)), in float32 or wider, and 0 where `kept` is False."""
    masked = scores if kept is None else scores.masked_fill(~kept, -torch.inf)
    return widened(masked).softmax(dim)


def widened(scores: Tensor) -> Tensor:
    """Return a tensor in float32 or wider."""
    return scores.to(torch.promote_types(scores.dtype, torch.float32))
