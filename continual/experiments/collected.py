"""Finished runs read back from their folders."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
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
    with _whole(file):
        record = json.loads(file.read_text(encoding="utf-8"))
        methods, seeds = [*record["config"]["methods"]], [*record["config"]["seeds"]]
        record["config"]["data"]["source"]
    found: list[tuple[tuple[int, int, int], Cell]] = []
    done = set()
    for cell_file in sorted((path / "cells").glob("*.json")):
        for position, cell in enumerate(read_cells(cell_file)):
            with _whole(cell_file):
                if not cell.complete:
                    continue
                # This library's own metrics first: a cell on which they work is whole.
                for metric in sorted(measures([cell]), key=lambda metric: not metric.ours):
                    metric.figure(cell)
            # A variant's label begins with that of the method whose training it shares; so may another method's.
            owner = max((m for m in methods if f"{cell.label}, ".startswith(f"{m}, ")), key=len, default=None)
            if owner is None:
                raise InputError(f"{cell_file} holds {cell.label!r}, which {file} does not name: take it out")
            found.append(((methods.index(owner), position, cell.seed), cell))
            done.add((owner, cell.seed))
    missing = tuple(f"{m} with seed {seed}" for m in methods for seed in seeds if (m, seed) not in done)
    return Run(path, record, tuple(cell for _, cell in sorted(found, key=lambda pair: pair[0])), missing)


def read_cells(file: Path) -> list[Cell]:
    """Return the cell and its variants that a file holds; raises InputError if it is damaged."""
    with _whole(file):
        return [Cell.from_json(values) for values in json.loads(file.read_text(encoding="utf-8"))]


@contextmanager
def _whole(file: Path) -> Iterator[None]:
    """Say of whatever goes wrong in the block that the file is damaged."""
    try:
        yield
    except InputError:
        raise
    except (OSError, TypeError, ValueError, LookupError, AttributeError) as error:
        raise InputError(
            f"{file} is damaged or of another version ({error}): delete it and give the run's command again"
        ) from None
