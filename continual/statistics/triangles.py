"""Symmetric matrices as their lower triangles, packed and unpacked in no more memory than the two take."""

from __future__ import annotations

import torch
from torch import Tensor

#: rows of a matrix that are changed at once
ROWS = 512


def lower_triangle(matrix: Tensor) -> Tensor:
    """Return the lower triangle of a matrix (n, n), row by row: (n (n + 1) / 2,)."""
    found, start = matrix.new_empty(len(matrix) * (len(matrix) + 1) // 2), 0
    for row, values in enumerate(matrix):
        found[start : start + row + 1] = values[: row + 1]
        start += row + 1
    return found


def whole(triangle: Tensor, width: int) -> Tensor:
    """Return the symmetric matrix (n, n) of a lower triangle, of n = `width`."""
    found, start = triangle.new_empty(width, width), 0
    for row in range(width):
        found[row, : row + 1] = triangle[start : start + row + 1]
        start += row + 1
    for first in range(0, width, ROWS):
        last = min(first + ROWS, width)
        own = found[first:last, first:last]
        below = torch.ones_like(own, dtype=torch.bool).tril_()
        own.copy_(torch.where(below, own, own.mT))
        found[first:last, last:] = found[last:, first:last].mT
    return found
