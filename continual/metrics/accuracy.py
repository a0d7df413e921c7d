"""The accuracy, on all classes and on old and new ones; `continual.metrics.transfer` has the definitions."""

from __future__ import annotations

import numpy as np

from continual.metrics import transfer
from continual.metrics.base import Series, mean, metric
from continual.metrics.cell import Cell, derived


@derived("accuracy")
def accuracy(cell: Cell) -> list[list[float]]:
    """Return the accuracy [i][j] on experience j's images after learning i; j > i only where that was measured."""
    truth, ends = np.array(cell.truth), np.cumsum(cell.test_counts)
    right = [answers == truth[: len(answers)] for answers in cell.arrays("answers")]
    return [[float(part.mean()) for part in np.split(r, ends[ends < len(r)])] for r in right]


def matrix(cell: Cell) -> transfer.Matrix:
    """Return the accuracy matrix (T, T), nan where nothing was measured."""
    rows = accuracy(cell)
    return np.array([(row + [np.nan] * len(rows))[: len(rows)] for row in rows])


def counts(cell: Cell) -> list[int]:
    """Return the test images of each experience that was learned."""
    return cell.test_counts[: len(cell.evaluations)]


def seen_accuracy(cell: Cell) -> list[float]:
    """Return the accuracy on all classes seen after each experience."""
    return transfer.seen_accuracy(matrix(cell), counts(cell)).tolist()


@metric(
    heading="final accuracy [%]", higher_is_better=True, table="main", order=11, range=(0, 1), column="seen_accuracy"
)
def final(cell: Cell) -> Series:
    """The accuracy on all classes after the last experience."""
    return [*seen_accuracy(cell)]


@metric(
    heading="average accuracy Ā [%]", higher_is_better=True, table="main", order=10, range=(0, 1), reduce=mean,
    column="seen_accuracy",
)  # fmt: skip
def average(cell: Cell) -> Series:
    """The mean, over the experiences, of the accuracy on all classes seen by then."""
    return [*seen_accuracy(cell)]


@metric(
    heading="accuracy on old classes [%]", higher_is_better=True, table="further", order=30, range=(0, 1),
    curve="What is kept: accuracy on all experiences but the newest.",
)  # fmt: skip
def old_accuracy(cell: Cell) -> Series:
    """The accuracy on all experiences but the newest, at the end."""
    return transfer.old_accuracy(matrix(cell), counts(cell))


@metric(
    heading="accuracy on new classes [%]", higher_is_better=True, table="further", order=31, range=(0, 1),
    curve="What is taken in: accuracy on the newest experience.",
)  # fmt: skip
def new_accuracy(cell: Cell) -> Series:
    """The accuracy on the newest experience, at the end."""
    return [*transfer.new_accuracy(matrix(cell))]
