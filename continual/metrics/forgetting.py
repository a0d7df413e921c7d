"""What is forgotten, and what one experience does for another; `continual.metrics.transfer` has the definitions."""

from __future__ import annotations

from collections.abc import Callable

from continual.metrics import transfer
from continual.metrics.accuracy import matrix
from continual.metrics.base import Series, metric
from continual.metrics.cell import Cell


@metric(heading="forgetting [%]", higher_is_better=False, table="main", order=32, range=(-1, 1))
def forgetting(cell: Cell) -> Series:
    """The mean, over all experiences but the last, of the best accuracy so far less that at the end (Chaudhry 2018)."""
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
