"""Measures of continual learning, against a matrix computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from continual import transfer

NAN = float("nan")
MATRIX = [[0.8, NAN, NAN], [0.6, 0.9, NAN], [0.7, 0.5, 1.0]]
COUNTS = [10, 10, 20]


def test_by_hand() -> None:
    assert transfer.seen_accuracy(MATRIX, COUNTS) == pytest.approx([0.8, 0.75, (7 + 5 + 20) / 40])
    assert transfer.average_incremental_accuracy(MATRIX, COUNTS) == pytest.approx((0.8 + 0.75 + 0.8) / 3)
    assert transfer.final_accuracy(MATRIX, COUNTS) == pytest.approx(0.8)
    assert transfer.forgetting(MATRIX) == pytest.approx(((0.8 - 0.7) + (0.9 - 0.5)) / 2)
    assert transfer.backward_transfer(MATRIX) == pytest.approx(((0.7 - 0.8) + (0.5 - 0.9)) / 2)


def test_one_experience_forgets_nothing() -> None:
    assert transfer.forgetting([[0.5]]) == 0
    assert transfer.backward_transfer([[0.5]]) == 0


@given(st.lists(st.floats(0, 1), min_size=9, max_size=9))
def test_without_later_rises_forgetting_is_minus_backward_transfer(values: list[float]) -> None:
    matrix = np.array(values).reshape(3, 3)
    for row in range(1, 3):  # no experience is ever better than when it was learned
        matrix[row, :row] = np.minimum(matrix[row, :row], np.diagonal(matrix)[:row])
    matrix[2, 0] = min(matrix[2, 0], matrix[1, 0])
    assert transfer.forgetting(matrix) == pytest.approx(-transfer.backward_transfer(matrix))


@pytest.mark.parametrize("bad", [[[0.5, 0.5]], [], [[NAN]], [[1.0, NAN], [NAN, 1.0]]])
def test_an_incomplete_matrix_is_refused(bad: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="accuracy matrix"):
        transfer.forgetting(bad)
