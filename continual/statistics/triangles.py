"""Symmetric matrices as their lower triangles, packed and unpacked; wide ones in no more memory than the two take."""

from __future__ import annotations

import torch
from torch import Tensor

#: rows of a matrix that are changed at once
ROWS = 512
#: matrices of more rows are packed row by row: a mask of what lies where is faster, and takes memory of its own
WIDE = 4096


def lower_triangle(matrix: Tensor) -> Tensor:
    """Return the lower triangle of a matrix (n, n), row by row: (n (n + 1) / 2,)."""
    if len(matrix) <= WIDE:
        return matrix.masked_select(_lower(matrix))
    found, start = matrix.new_empty(len(matrix) * (len(matrix) + 1) // 2), 0
    for row, values in enumerate(matrix):
        found[start : start + row + 1] = values[: row + 1]
        start += row + 1
    return found


def whole(triangle: Tensor, width: int) -> Tensor:
    """Return the symmetric matrix (n, n) of a lower triangle, of n = `width`."""
    found, start = triangle.new_empty(width, width), 0
    if width <= WIDE:
        lower = _lower(found)
        for half in (found, found.mT):
            half.masked_scatter_(lower, triangle)
        return found
    for row in range(width):
        found[row, : row + 1] = triangle[start : start + row + 1]
        start += row + 1
    for first in range(0, width, ROWS):
        last = min(first + ROWS, width)
        own = found[first:last, first:last]
        own.copy_(torch.where(_lower(own), own, own.mT))
        found[first:last, last:] = found[last:, first:last].mT
    return found


def _lower(matrix: Tensor) -> Tensor:
    """Return which entries of a square matrix lie on or below its diagonal."""
    return torch.ones(matrix.shape, dtype=torch.bool, device=matrix.device).tril_()
