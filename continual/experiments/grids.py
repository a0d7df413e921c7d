"""Grids in a config: `lr = { grid = [0.001, 0.01] }` in a method's table makes a row of the results for each value."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from math import prod
from typing import Any

from continual.errors import InputError

#: rows that one table may make
MOST = 200


def rows(label: str, settings: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield label and settings of every point of the grid, or the one row as it is; the last key varies fastest.

    Raises InputError for a grid that is no list of different values, and for too many points.

    >>> [*rows("mos", {"lr": {"grid": [0.1, 0.2]}, "epochs": 5})]
    [('mos lr=0.1', {'lr': 0.1, 'epochs': 5}), ('mos lr=0.2', {'lr': 0.2, 'epochs': 5})]
    """
    grids = {key: value["grid"] for key, value in settings.items() if isinstance(value, Mapping) and "grid" in value}
    for key, values in grids.items():
        if settings[key].keys() != {"grid"} or not isinstance(values, list) or not values:
            raise InputError(f"methods.{label}.{key}: a grid is a list of values, {{ grid = [0.001, 0.01] }}")
        if len({*map(repr, values)}) < len(values):
            raise InputError(f"methods.{label}.{key}: the grid names a value twice")
    if (count := prod(map(len, grids.values()))) > MOST:
        raise InputError(f"methods.{label}: the grid has {count} points: at most {MOST} are run, or use equimos search")
    for point in product(*grids.values()):
        chosen = dict(zip(grids, point, strict=True))
        yield " ".join([label, *(f"{key}={value}" for key, value in chosen.items())]), {**settings, **chosen}
