"""Measures of continual learning, against a matrix computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from continual.metrics import transfer

NAN = float("nan")
MATRIX = [[0.8, NAN, NAN], [0.6, 0.9, NAN], [0.7, 0.5, 1.0]]
COUNTS = [10, 10, 20]


def test_by_hand() -> None:
    assert transfer.seen_accuracy(MATRIX, COUNTS) == pytest.approx([0.8, 0.75, (7 + 5 + 20) / 40])
    assert transfer.seen_accuracy(MATRIX, COUNTS).mean() == pytest.approx((0.8 + 0.75 + 0.8) / 3)
    assert transfer.seen_accuracy(MATRIX, COUNTS)[-1] == pytest.approx(0.8)
    assert transfer.experience_forgetting(MATRIX) == pytest.approx([0.8 - 0.7, 0.9 - 0.5])
    assert transfer.forgetting(MATRIX) == pytest.approx(((0.8 - 0.7) + (0.9 - 0.5)) / 2)
    assert transfer.backward_transfer(MATRIX) == pytest.approx(((0.7 - 0.8) + (0.5 - 0.9)) / 2)
    assert transfer.new_accuracy(MATRIX) == [0.8, 0.9, 1.0]


def test_old_accuracy_weighs_by_images() -> None:
    matrix = [[0.8, NAN, NAN], [0.6, 0.9, NAN], [0.7, 0.5, 1.0]]
    assert transfer.old_accuracy(matrix, [10, 30, 20]) == [None, pytest.approx(0.6), pytest.approx((7 + 15) / 40)]


def test_what_was_measured_before_learning_counts_for_forward_transfer_only() -> None:
    measured = np.array([[0.8, 0.95, 0.3], [0.6, 0.9, 0.4], [0.7, 0.5, 1.0]])
    assert transfer.forward_transfer(measured, [0.1, 0.2, 0.1]) == pytest.approx(((0.95 - 0.2) + (0.4 - 0.1)) / 2)
    assert transfer.forward_transfer(measured) == pytest.approx((0.95 + 0.4) / 2)
    assert transfer.forgetting(measured) == transfer.forgetting(MATRIX)
    assert transfer.seen_accuracy(measured, COUNTS).tolist() == transfer.seen_accuracy(MATRIX, COUNTS).tolist()


def test_what_is_not_defined_is_none() -> None:
    assert transfer.forgetting([[0.5]]) is None
    assert transfer.backward_transfer([[0.5]]) is None
    assert transfer.forward_transfer([[0.5]]) is None
    assert transfer.forward_transfer(MATRIX) is None
    assert transfer.old_accuracy([[0.5]], [3]) == [None]


@given(st.lists(st.floats(0, 1), min_size=9, max_size=9))
def test_without_later_rises_forgetting_is_minus_backward_transfer(values: list[float]) -> None:
    matrix = np.array(values).reshape(3, 3)
    for row in range(1, 3):  # no experience is ever better than when it was learned
        matrix[row, :row] = np.minimum(matrix[row, :row], np.diagonal(matrix)[:row])
    matrix[2, 0] = min(matrix[2, 0], matrix[1, 0])
    backward = transfer.backward_transfer(matrix)
    assert backward is not None
    assert transfer.forgetting(matrix) == pytest.approx(-backward)


@pytest.mark.parametrize("bad", [[[0.5, 0.5]], [], [[NAN]], [[1.0, NAN], [NAN, 1.0]]])
def test_an_incomplete_matrix_is_refused(bad: list[list[float]]) -> None:
    with pytest.raises(ValueError, match="accuracy matrix"):
        transfer.forgetting(bad)
