"""Which adapters answered: MOS's retrieval (section 3.3), as tables of counts and as shares."""

from __future__ import annotations

import numpy as np

from continual.metrics.base import Series, metric
from continual.metrics.cell import Cell, derived
from continual.metrics.confusion import Counts, confusion, share_right


@derived("first_confusion")
def first_choices(cell: Cell) -> list[Counts]:
    """Return, after each experience, images by right stack (row) and stage one's choice (column)."""
    return _tables(cell, "first_stack")


@derived("confusion")
def choices(cell: Cell) -> list[Counts]:
    """Return, after each experience, images by right stack (row) and the choice after refinement (column)."""
    return _tables(cell, "stack")


def _tables(cell: Cell, name: str) -> list[Counts]:
    # An experience that brings a new class brings a stack.
    bringing = [count for count in cell.class_counts if count]
    right = np.repeat(np.arange(len(bringing)), bringing)[cell.truth]
    found = []
    for number, chosen in enumerate(cell.arrays(name)):
        images, stacks = cell.images(number), sum(count > 0 for count in cell.class_counts[: number + 1])
        found.append(confusion(right[:images], chosen[:images], stacks))
    return found


@metric(heading="right stack [%]", higher_is_better=True, table="main", order=50, range=(0, 1))
def right_stack(cell: Cell) -> Series:
    """The share of images answered with the adapters of the experience that brought their class."""
    return [share_right(table) for table in choices(cell)]


@metric(heading="right stack at first [%]", higher_is_better=True, table="further", order=51, range=(0, 1))
def right_stack_at_first(cell: Cell) -> Series:
    """The share of images whose right stack is found by the prototypes, before it is refined."""
    return [share_right(table) for table in first_choices(cell)]


@derived("refinements")
def changes(cell: Cell) -> Series:
    """Return the mean number of changes of an image's stack."""
    return [float(found[: cell.images(n)].mean()) for n, found in enumerate(cell.arrays("refinements"))]


@metric(heading="refinements an image", higher_is_better=None, table="further", order=52, factor=1, decimals=2)
def refinements(cell: Cell) -> Series:
    """How often an image's stack was changed before it was answered."""
    return changes(cell)
