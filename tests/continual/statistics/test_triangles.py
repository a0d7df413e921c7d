"""Packed symmetric matrices: the same numbers whether they are wide or not."""

from __future__ import annotations

import pytest
import torch

from continual.statistics import triangles


@pytest.mark.parametrize("width", [1, 2, 7, 8, 9, 20])
@pytest.mark.parametrize("wide", [4096, 0])
def test_a_matrix_comes_back(width: int, wide: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triangles, "WIDE", wide)
    monkeypatch.setattr(triangles, "ROWS", 4)
    half = torch.randn(width, width, dtype=torch.float64, generator=torch.Generator().manual_seed(width))
    matrix = half + half.mT
    packed = triangles.lower_triangle(matrix)
    assert packed.tolist() == [matrix[i, j].item() for i in range(width) for j in range(i + 1)]
    assert torch.equal(triangles.whole(packed, width), matrix)
    rows = torch.randn(width, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(triangles.lower_products(rows, rows.mT), triangles.lower_triangle(rows @ rows.mT))
    torch.testing.assert_close(triangles.times(packed, rows), matrix @ rows)
    system = matrix @ matrix.mT + torch.eye(width, dtype=torch.float64)
    torch.testing.assert_close(system @ triangles.solved(torch.linalg.cholesky(system), rows), rows)
