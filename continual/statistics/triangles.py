"""Symmetric matrices as their lower triangles, packed and unpacked; wide ones in no more memory than the two take."""

from __future__ import annotations

import torch
from torch import Tensor

#: rows of a matrix that are made, or changed, at once
ROWS = 512
#: matrices of more rows are packed row by row: a mask of what lies where is faster, and takes memory of its own
WIDE = 4096
#: the same where a processor packs, which writes every row but once
WIDE_TO_PACK = 1024


def lower_triangle(matrix: Tensor) -> Tensor:
    """Return the lower triangle of a matrix (n, n), row by row: (n (n + 1) / 2,)."""
    if not _row_by_row(matrix):
        return matrix.masked_select(_lower(matrix))
    return torch.cat([row[: number + 1] for number, row in enumerate(matrix)])


def lower_products(left: Tensor, right: Tensor) -> Tensor:
    """Return `lower_triangle(left @ right)` of (n, k) and (k, n), a symmetric product."""
    if not _row_by_row(right):
        return lower_triangle(left @ right)
    width = len(left)
    found, start = left.new_empty(width * (width + 1) // 2), 0
    for first in range(0, width, ROWS):
        # All columns, though half of them are dropped: fewer of them are rounded otherwise.
        rows = left[first : first + ROWS] @ right
        kept = [row[: first + number + 1] for number, row in enumerate(rows)]
        stop = start + sum(map(len, kept))
        torch.cat(kept, out=found[start:stop])
        start = stop
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


def times(triangle: Tensor, rows: Tensor) -> Tensor:
    """Return S R (n, k) of the symmetric matrix S (n, n) of a lower triangle, and R (n, k), without making S."""
    width, start = len(rows), 0
    ends = torch.arange(width, device=triangle.device)
    found = rows * -triangle[ends * (ends + 3) // 2][:, None]  # both halves below have the diagonal
    block = triangle.new_zeros(min(ROWS, width), width)  # rows only grow longer: what is right of them stays 0
    for first in range(0, width, ROWS):
        own = rows[first : first + ROWS]
        last = first + len(own)
        for number, row in enumerate(block[: len(own)], first + 1):
            row[:number] = triangle[start : start + number]
            start += number
        half = block[: len(own), :last]
        found[first:last] += half @ rows[:last]
        found[:last] += half.mT @ own
    return found


def solved(lower: Tensor, right: Tensor) -> Tensor:
    """Return (L L^T)^-1 B of a lower factor L (n, n) and B (n, k), without the copy of L that torch's own makes."""
    return torch.linalg.solve_triangular(lower.mT, torch.linalg.solve_triangular(lower, right, upper=False), upper=True)


def _row_by_row(matrix: Tensor) -> bool:
    return matrix.shape[-1] > (min(WIDE, WIDE_TO_PACK) if matrix.device.type == "cpu" else WIDE)


def _lower(matrix: Tensor) -> Tensor:
    """Return which entries of a square matrix lie on or below its diagonal."""
    return torch.ones(matrix.shape, dtype=torch.bool, device=matrix.device).tril_()
