"""How far a model's confidence can be trusted: the reliability table and the expected calibration error.

Guo et al. 2017, "On Calibration of Modern Neural Networks", section 2.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from continual.metrics.base import Series, metric
from continual.metrics.cell import Cell, derived

BINS = 15  #: the number the paper, and nearly everyone after it, uses

Table = NDArray[np.float64]


def reliability_table(confidence: ArrayLike, correct: ArrayLike, bins: int = BINS) -> Table:
    """Return (bins, 3): of each bin of confidence the images, the sum of confidence, and the images answered right.

    `confidence` (N,) in [0, 1] is the probability of the answer given, `correct` (N,) whether it was right.
    Bin m holds confidences in (m/bins, (m+1)/bins], the first also 0. Tables of different images add up.
    Raises ValueError for a confidence outside [0, 1], arrays of other shapes, or no bin.

    >>> reliability_table([0.2, 0.9, 1.0], [False, True, True], bins=2).tolist()
    [[1.0, 0.2, 0.0], [2.0, 1.9, 2.0]]
    """
    p, right = np.asarray(confidence, dtype=np.float64), np.asarray(correct, dtype=np.float64)
    if bins < 1 or p.ndim != 1 or p.shape != right.shape:
        raise ValueError(f"give bins >= 1 and one confidence per answer, got {bins}, {p.shape} and {right.shape}")
    # Probabilities that were summed in float32 may exceed 1 by their rounding.
    if not ((p >= 0) & (p <= 1 + 1e-4)).all():
        raise ValueError("a confidence is a probability, from 0 to 1: apply softmax to logits first")
    place = np.clip(np.ceil(p * bins).astype(int) - 1, 0, bins - 1)
    columns = [np.bincount(place, weights=w, minlength=bins) for w in (np.ones_like(p), p, right)]
    return np.stack(columns, axis=1).astype(np.float64)


def expected_calibration_error(table: ArrayLike) -> float | None:
    """Return ECE = sum_m |B_m| / N * |acc(B_m) - conf(B_m)| of a reliability table; None without images.

    >>> expected_calibration_error([[1, 0.25, 0], [3, 2.5, 3]])
    0.1875
    """
    t = np.asarray(table, dtype=np.float64)
    if t.ndim != 2 or t.shape[1] != 3:
        raise ValueError(f"a reliability table is (bins, 3): images, confidence, right; got shape {t.shape}")
    count, confidence, right = t.T
    return float(np.abs(right - confidence).sum() / count.sum()) if count.sum() else None


@derived("reliability")
def reliability(cell: Cell) -> list[Table]:
    """Return the `reliability_table` after each experience, of all test images so far."""
    found = zip(cell.seen("confidence"), cell.seen("answers"), strict=True)
    return [reliability_table(p, answers == cell.truth[: len(answers)]) for p, answers in found]


@metric(
    heading="calibration error [%]", higher_is_better=False, table="main", order=60, range=(0, 1),
    of_probabilities=True,
    curve="Expected calibration error (15 bins) of the answers.",
)  # fmt: skip
def calibration_error(cell: Cell) -> Series:
    """Expected calibration error of the last model, 15 bins of equal width (Guo et al. 2017)."""
    return [expected_calibration_error(table) for table in reliability(cell)]
