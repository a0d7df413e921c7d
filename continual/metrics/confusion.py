"""Which was right and which was chosen, as a table of counts: for retrieved stacks as for classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Counts = NDArray[np.int64]


def confusion(right: ArrayLike, chosen: ArrayLike, size: int) -> Counts:
    """Return counts (size, size): row, what was right; column, what was chosen; both ints from 0 to size - 1.

    With an experience's own stack as `right`, this is MOS's retrieval (section 3.3) seen by experience.
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
    """Return the share on the diagonal: the retrieval accuracy, or the accuracy; None of an empty table.

    >>> share_right([[1, 1], [0, 1]])
    0.6666666666666666
    """
    table = np.asarray(counts)
    return float(np.trace(table) / table.sum()) if table.sum() else None
