"""What a run leaves in its folder beside its cells: the table, the curves and their picture."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.table import Table

from continual.bench import pictures, tables
from continual.bench.console import write_text
from continual.bench.results import Cell


def terminal(title: str, cells: Sequence[Cell]) -> Table:
    """Return the results table for a terminal."""
    return tables.terminal(title, tables.results_table(cells))


def write(title: str, cells: Sequence[Cell], out: Path) -> None:
    """Write results.json, results.csv, results.md and accuracy.png into a run folder."""
    write_text(out / "results.json", json.dumps([asdict(cell) for cell in cells]) + "\n")
    write_text(out / "results.csv", tables.experiences_csv(cells))
    write_text(out / "results.md", f"# {title}\n\n{tables.markdown(tables.results_table(cells))}")
    pictures.save(pictures.accuracy(cells, title), out / "accuracy.png")
