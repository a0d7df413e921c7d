"""Measures of continual learning, computed from the accuracy matrix.

`R[i, j]` is the accuracy on experience j's test images after learning experience i, both counted from 0; entries with
j > i (experiences not learned yet) are nan unless they were measured. `counts[j]` is the number of test images of
experience j. A measure that needs more than what there is, such as forgetting after a single experience, is None.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from continual.metrics.base import mean

Matrix = NDArray[np.float64]


def seen_accuracy(matrix: ArrayLike, counts: ArrayLike) -> Matrix:
    """Return the accuracy on all classes seen after each experience, (T,): A_1 ... A_T.

    Their mean is Ā, the average incremental accuracy (iCaRL, Rebuffi et al. 2017, section 4).

    >>> seen_accuracy([[1.0, np.nan], [0.5, 0.9]], [10, 30]).round(3).tolist()
    [1.0, 0.8]
    """
    r, n = _checked(matrix), np.asarray(counts, dtype=np.float64)
    return np.array([np.average(r[i, : i + 1], weights=n[: i + 1]) for i in range(len(r))])


def new_accuracy(matrix: ArrayLike) -> list[float]:
    """Return the accuracy on each experience just after learning it: R[i, i], a list of T."""
    return np.diagonal(_checked(matrix)).tolist()


def old_accuracy(matrix: ArrayLike, counts: ArrayLike) -> list[float | None]:
    """Return the accuracy on all earlier experiences after learning each one; None after the first.

    >>> old_accuracy([[1.0, np.nan], [0.5, 0.9]], [10, 30])
    [None, 0.5]
    """
    r, n = _checked(matrix), np.asarray(counts, dtype=np.float64)
    return [None, *[float(np.average(r[i, :i], weights=n[:i])) for i in range(1, len(r))]]


def experience_forgetting(matrix: ArrayLike) -> list[float]:
    """Return what is forgotten of each experience but the last, f_j = max_{i < T} R[i, j] - R[T, j]: a list of T - 1.

    The maximum is over the experiences from j up to the last but one (Chaudhry et al. 2018, eq. 3); what was measured
    before j was learned does not count. Negative where the last experience helped.
    """
    r = _checked(matrix)
    return [float(np.max(r[j:-1, j]) - r[-1, j]) for j in range(len(r) - 1)]


def forgetting(matrix: ArrayLike) -> float | None:
    """Return F_T, the mean of `experience_forgetting` (Chaudhry et al. 2018, eq. 4); None for one experience.

    Avalanche's `StreamForgetting` is another measure: it compares with the accuracy just after an experience was
    learned, not with the best since then, and so is the backward transfer with its sign changed, never more than F_T.
    """
    return mean(experience_forgetting(matrix))


def backward_transfer(matrix: ArrayLike) -> float | None:
    """Return BWT = 1/(T-1) sum_j R[T, j] - R[j, j] (GEM, Lopez-Paz & Ranzato 2017, eq. 3); None for one experience.

    >>> backward_transfer([[1.0, np.nan], [0.5, 0.9]])
    -0.5
    """
    r = _checked(matrix)
    return mean([float(r[-1, j] - r[j, j]) for j in range(len(r) - 1)])


def forward_transfer(matrix: ArrayLike, untrained: ArrayLike = 0) -> float | None:
    """Return FWT = 1/(T-1) sum_j R[j-1, j] - b[j] (GEM, eq. 4); None for one experience, or where not measured.

    `untrained` (T,) is b, the accuracy on each experience before anything was learned: 0 for a learner that then has no
    answer. A learner that answers with the classes seen so far cannot name an unseen one: in class-incremental learning
    R[j-1, j] is 0 by construction and says nothing about the learner. There it is left nan, and FWT is None.

    >>> forward_transfer([[1.0, 0.4], [0.5, 0.9]], [0.5, 0.1])
    0.30000000000000004
    """
    r = _checked(matrix)
    b = np.broadcast_to(np.asarray(untrained, dtype=np.float64), len(r))
    gains = [float(r[j - 1, j] - b[j]) for j in range(1, len(r))]
    return None if np.isnan(gains).any() else mean(gains)


def _checked(matrix: ArrayLike) -> Matrix:
    r = np.asarray(matrix, dtype=np.float64)
    if r.ndim != 2 or r.shape[0] != r.shape[1] or len(r) == 0:
        raise ValueError(f"the accuracy matrix must be square, one row per experience, got shape {r.shape}")
    if np.isnan(r[np.tril_indices(len(r))]).any():
        raise ValueError("the accuracy matrix lacks an accuracy on an experience that was learned")
    return r
