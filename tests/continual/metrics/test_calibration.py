"""Reliability tables and calibration error, by hand and against a plain loop."""

from __future__ import annotations

import numpy as np
import pytest

from continual.metrics.calibration import expected_calibration_error, reliability_table


def test_by_hand() -> None:
    table = reliability_table([0.0, 0.25, 0.5, 0.75, 1.0], [True, False, True, True, False], bins=4)
    assert table.tolist() == [[2, 0.25, 1], [1, 0.5, 1], [1, 0.75, 1], [1, 1.0, 0]]
    assert expected_calibration_error(table) == pytest.approx((0.75 + 0.5 + 0.25 + 1.0) / 5)


def test_against_a_loop_over_images() -> None:
    draw = np.random.default_rng(0)
    confidence, correct = draw.random(500), draw.random(500) < 0.6
    error = 0.0
    for m in range(15):
        inside = [i for i in range(500) if m / 15 < confidence[i] <= (m + 1) / 15]
        error += abs(sum(correct[i] for i in inside) - sum(confidence[i] for i in inside)) / 500
    assert expected_calibration_error(reliability_table(confidence, correct)) == pytest.approx(error)


def test_tables_of_parts_add_up() -> None:
    draw = np.random.default_rng(1)
    confidence, correct = draw.random(50), draw.random(50) < 0.5
    parts = reliability_table(confidence[:20], correct[:20]) + reliability_table(confidence[20:], correct[20:])
    assert parts == pytest.approx(reliability_table(confidence, correct))


def test_a_perfect_model_has_no_error_and_no_images_no_figure() -> None:
    assert expected_calibration_error(reliability_table(np.ones(5), np.ones(5))) == 0
    assert expected_calibration_error(reliability_table([], [])) is None
    assert reliability_table([], []).dtype == np.float64
    assert reliability_table(np.float32([1 + 1e-6]), [True])[-1, 0] == 1


def test_what_is_no_probability_is_refused() -> None:
    for bad in ([-0.1], [1.1], [np.nan]):
        with pytest.raises(ValueError, match="softmax"):
            reliability_table(bad, [True])
    with pytest.raises(ValueError, match="bins >= 1"):
        reliability_table([0.5], [True], bins=0)
    with pytest.raises(ValueError, match="one confidence per answer"):
        reliability_table([0.5], [True, False])
    with pytest.raises(ValueError, match="reliability table"):
        expected_calibration_error([1, 2, 3])
