"""What a benchmark measures: one file per family of metrics, found by its place; see `continual.metrics.base`."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby

from continual.metrics.base import Metric, Series
from continual.metrics.cell import Cell
from continual.registry import Registry

METRICS: Registry[Metric] = Registry("metric", __name__)


def measures(cells: Iterable[Cell]) -> list[Metric]:
    """Return every metric in its order; those of transformed images for each group of the cells, group by group."""
    groups = dict.fromkeys(group for cell in cells for group in cell.groups)
    ordered = sorted(METRICS.all().values(), key=lambda m: (m.order, m.name))
    found: list[Metric] = []
    for by_group, alike in groupby(ordered, key=lambda m: m.by_group):
        block = [*alike]
        found += [m.under(group) for group in groups for m in block] if by_group else block
    return found


def series(cell: Cell) -> dict[str, Series]:
    """Return what was measured after each experience, lists of T; None where there is no such figure."""
    return {m.column: m(cell) for m in measures([cell])}
