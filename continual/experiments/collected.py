"""Finished runs read back from their folders."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from continual.errors import InputError
from continual.metrics import measures
from continual.metrics.cell import Cell


@dataclass(frozen=True)
class Run:
    """What a run folder holds."""

    path: Path
    record: dict[str, Any]  #: `run.json`: config, versions, device and what else the run noted
    cells: tuple[Cell, ...]  #: the finished ones, in the config's order
    missing: tuple[str, ...]  #: what the config names and is not finished

    @property
    def config(self) -> dict[str, Any]:
        """The run's config with every default, as JSON values."""
        return self.record["config"]


def collect(path: Path) -> Run:
    """Read a run folder; raises InputError if it is none, or if a file in it is damaged."""
    if not path.is_dir():
        kind = "is a file" if path.exists() else "is not there"
        raise InputError(f"{path} {kind}: name a run folder, as `equimos run CONFIG --out DIR` makes it")
    file = path / "run.json"
    if not file.is_file():
        what = "has no run.json" if any(path.iterdir()) else "is empty"
        raise InputError(f"{path} is no run folder, it {what}: name one that `equimos run CONFIG --out DIR` has made")
    record = _read(file)
    try:
        methods, seeds = [*record["config"]["methods"]], [*record["config"]["seeds"]]
        record["config"]["data"]["source"]
    except (TypeError, KeyError) as error:
        raise InputError(f"{file} is damaged: it lacks {error}; restore a copy, or run again elsewhere") from None
    found: list[tuple[tuple[int, int, int], Cell]] = []
    done = set()
    for cell_file in sorted((path / "cells").glob("*.json")):
        for position, cell in enumerate(_cells(cell_file)):
            if not cell.complete:
                continue
            # A variant's label begins with that of the method whose training it shares; so may another method's.
            owners = [m for m in methods if f"{cell.label}, ".startswith(f"{m}, ")]
            if not owners:
                raise InputError(f"{cell_file} holds {cell.label!r}, which {file} does not name: take it out")
            owner = max(owners, key=len)
            found.append(((methods.index(owner), position, cell.seed), cell))
            done.add((owner, cell.seed))
    missing = tuple(f"{m} with seed {seed}" for m in methods for seed in seeds if (m, seed) not in done)
    return Run(path, record, tuple(cell for _, cell in sorted(found, key=lambda pair: pair[0])), missing)


def _cells(file: Path) -> list[Cell]:
    try:
        cells = [Cell.from_json(values) for values in _read(file)]
        for cell in filter(lambda cell: cell.complete, cells):
            # This library's own metrics first: a cell on which they work is whole.
            for metric in sorted(measures([cell]), key=lambda metric: not metric.ours):
                metric.figure(cell)
    except InputError:
        raise
    except (TypeError, ValueError, LookupError, AttributeError) as error:
        raise InputError(
            f"{file} is damaged or of another version ({error}): delete it and give the run's command again"
        ) from None
    return cells


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file} is damaged ({error}): delete it and give the run's command again") from None
