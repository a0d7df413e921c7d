"""Which adapters answered: MOS's retrieval (section 3.3), as tables of counts and as shares."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from continual.metrics.base import Series, metric
from continual.metrics.cell import Cell, derived

Counts = NDArray[np.int64]


def confusion(right: ArrayLike, chosen: ArrayLike, size: int) -> Counts:
    """Return counts (size, size): row, what was right; column, what was chosen; both ints from 0 to size - 1.

    Raises ValueError for arrays that differ in shape or numbers outside the table.

    >>> confusion([0, 0, 1], [0, 1, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    rows, columns = np.asarray(right, dtype=np.int64), np.asarray(chosen, dtype=np.int64)
    if rows.ndim != 1 or rows.shape != columns.shape:
        raise ValueError(f"give one choice for each right answer, got shapes {rows.shape} and {columns.shape}")
    for values in (rows, columns):
        if len(values) and not 0 <= np.min(values) <= np.max(values) < size:
            raise ValueError(f"choices must be 0 to {size - 1}, got {np.min(values)} to {np.max(values)}")
    return np.bincount(rows * size + columns, minlength=size * size).reshape(size, size)


def share_right(counts: ArrayLike) -> float | None:
    """Return the share on the diagonal, the retrieval accuracy; None of an empty table.

    >>> share_right([[1, 1], [0, 1]])
    0.6666666666666666
    """
    table = np.asarray(counts)
    return float(np.trace(table) / table.sum()) if table.sum() else None


@derived("first_confusion")
def first_choices(cell: Cell) -> list[Counts]:
    """Return, after each experience, images by right adapter (row) and stage one's choice (column)."""
    return _tables(cell, "first_stack")


@derived("confusion")
def choices(cell: Cell) -> list[Counts]:
    """Return, after each experience, images by right adapter (row) and the choice after refinement (column)."""
    return _tables(cell, "stack")


def _tables(cell: Cell, name: str) -> list[Counts]:
    # An experience that brings a new class brings a stack.
    bringing = [count for count in cell.class_counts if count]
    right, stacks = np.repeat(np.arange(len(bringing)), bringing)[cell.truth], np.cumsum(np.sign(cell.class_counts))
    found = zip(cell.seen(name), stacks, strict=False)
    return [confusion(right[: len(chosen)], chosen, size) for chosen, size in found]


@metric(heading="adapter-retrieval accuracy [%]", higher_is_better=True, table="main", order=50, range=(0, 1))
def right_stack(cell: Cell) -> Series:
    """The share of images answered with the adapters of the experience that brought their class."""
    return [share_right(table) for table in choices(cell)]


@metric(
    heading="adapter-retrieval accuracy at first [%]", higher_is_better=True, table="further", order=51, range=(0, 1)
)
def right_stack_at_first(cell: Cell) -> Series:
    """The share of images whose right adapter is found by the prototypes, before refinement."""
    return [share_right(table) for table in first_choices(cell)]


@metric(heading="refinements per image", higher_is_better=None, table="further", order=52, factor=1, decimals=2)
@derived("refinements")
def refinements(cell: Cell) -> Series:
    """How often an image's adapter was changed before it was answered."""
    return [float(found.mean()) for found in cell.seen("refinements")]
