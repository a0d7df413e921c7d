"""The accuracy, what is forgotten, and what one experience does for another; see `continual.metrics.transfer`."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np

from continual.metrics import transfer
from continual.metrics.base import Series, mean, metric
from continual.metrics.cell import Cell, derived

share = partial(metric, higher_is_better=True, range=(0, 1))


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


def seen_accuracy(cell: Cell) -> list[float]:
    """Return the accuracy on all classes seen after each experience."""
    return transfer.seen_accuracy(matrix(cell), cell.test_counts).tolist()


@share(heading="final accuracy [%]", table="main", order=11, column="seen_accuracy", brief=True)
def final(cell: Cell) -> Series:
    """The accuracy on all classes after the last experience."""
    return [*seen_accuracy(cell)]


@share(heading="average accuracy Ā [%]", table="main", order=10, reduce=mean, column="seen_accuracy", brief=True)
def average(cell: Cell) -> Series:
    """The mean, over the experiences, of the accuracy on all classes seen by then."""
    return [*seen_accuracy(cell)]


@share(
    heading="accuracy on old classes [%]", table="further", order=30,
    curve="What is kept: accuracy on all experiences but the newest.",
)  # fmt: skip
def old_accuracy(cell: Cell) -> Series:
    """The accuracy on all experiences but the newest, at the end."""
    return transfer.old_accuracy(matrix(cell), cell.test_counts)


@share(
    heading="accuracy on new classes [%]", table="further", order=31,
    curve="What is taken in: accuracy on the newest experience.",
)  # fmt: skip
def new_accuracy(cell: Cell) -> Series:
    """The accuracy on the newest experience, at the end."""
    return [*transfer.new_accuracy(matrix(cell))]


@metric(heading="forgetting [%]", higher_is_better=False, table="main", order=32, range=(-1, 1), brief=True)
def forgetting(cell: Cell) -> Series:
    """The mean, over all but the last experience, of the best accuracy so far less the last (Chaudhry et al. 2018)."""
    return _so_far(cell, transfer.forgetting)


@metric(heading="backward transfer [%]", higher_is_better=True, table="further", order=33, range=(-1, 1))
def backward_transfer(cell: Cell) -> Series:
    """The mean change of an experience's accuracy since it was learned (Lopez-Paz, Ranzato 2017)."""
    return _so_far(cell, transfer.backward_transfer)


@metric(heading="forward transfer [%]", higher_is_better=True, table="further", order=34, range=(-1, 1))
def forward_transfer(cell: Cell) -> Series:
    """The accuracy on an experience before it is learned; not shown where its classes are new, as it is 0 then."""
    return _so_far(cell, transfer.forward_transfer)


def _so_far(cell: Cell, measure: Callable[[transfer.Matrix], float | None]) -> Series:
    whole = matrix(cell)
    return [measure(whole[:n, :n]) for n in range(1, len(whole) + 1)]
