"""Measures of continual learning, computed from the accuracy matrix.

`R[i, j]` is the accuracy on experience j's test images after learning experience i, both counted from 0;
entries with j > i (experiences not learned yet) are nan unless they were measured. `counts[j]` is the
number of test images of experience j.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Matrix = NDArray[np.float64]


def seen_accuracy(matrix: ArrayLike, counts: ArrayLike) -> Matrix:
    """Return the accuracy on all classes seen after each experience, (T,): A_1 ... A_T.

    >>> seen_accuracy([[1.0, np.nan], [0.5, 0.9]], [10, 30]).round(3).tolist()
    [1.0, 0.8]
    """
    r, n = _checked(matrix), np.asarray(counts, dtype=np.float64)
    return np.array([np.average(r[i, : i + 1], weights=n[: i + 1]) for i in range(len(r))])


def average_incremental_accuracy(matrix: ArrayLike, counts: ArrayLike) -> float:
    """Return Ā, the mean of `seen_accuracy` over the experiences."""
    return float(seen_accuracy(matrix, counts).mean())


def final_accuracy(matrix: ArrayLike, counts: ArrayLike) -> float:
    """Return A_T, the accuracy on all classes after the last experience."""
    return float(seen_accuracy(matrix, counts)[-1])


def forgetting(matrix: ArrayLike) -> float:
    """Return the mean, over experiences before the last, of best minus last accuracy.

    The best is over the experiences before the last (Chaudhry et al. 2018). 0 for a single experience.
    """
    r = _checked(matrix)
    drops = [r[j:-1, j].max() - r[-1, j] for j in range(len(r) - 1)]
    return float(np.mean(drops)) if drops else 0.0


def backward_transfer(matrix: ArrayLike) -> float:
    """Return the mean change of each experience's accuracy since it was learned (GEM, eq. 3).

    >>> backward_transfer([[1.0, np.nan], [0.5, 0.9]])
    -0.5
    """
    r = _checked(matrix)
    changes = [r[-1, j] - r[j, j] for j in range(len(r) - 1)]
    return float(np.mean(changes)) if changes else 0.0


def _checked(matrix: ArrayLike) -> Matrix:
    r = np.asarray(matrix, dtype=np.float64)
    if r.ndim != 2 or r.shape[0] != r.shape[1] or len(r) == 0:
        raise ValueError(f"the accuracy matrix must be square, one row an experience, got shape {r.shape}")
    if np.isnan(r[np.tril_indices(len(r))]).any():
        raise ValueError("the accuracy matrix lacks an accuracy on an experience that was learned")
    return r
