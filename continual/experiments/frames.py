"""Results of runs as tidy tables of pandas: one line per observation, one column per variable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from continual.errors import InputError
from continual.experiments.run_folder import Run, collect
from continual.experiments.tables import cell_lines, experience_lines
from continual.metrics.cell import Cell

if TYPE_CHECKING:
    from pandas import DataFrame

Lines = Callable[[Sequence[Cell]], list[list[object]]]
LINES: dict[str, Lines] = {"cell": cell_lines, "experience": experience_lines}


def read_runs(*folders: str | PathLike[str], per: Literal["cell", "experience"] = "cell") -> DataFrame:
    """Read the finished cells of run folders into a table of pandas.

    With `per="cell"` a line is a method with a seed, and its figures are those of the results table; with
    `per="experience"` a line is one experience of it, and its figures are what was measured after it. Columns `run`
    (the folder), `benchmark` (its title), `label`, `method`, `seed` (and `experience`, from 1) say which; the others
    are metrics in shares, seconds and bytes, NaN where there is no figure.

    Raises InputError for a folder that is no run, for an unknown `per`, and without pandas.
    """
    try:
        import pandas
    except ImportError:
        raise InputError('tables need pandas: pip install "equimos[pandas]"') from None
    if per not in LINES:
        raise InputError(f"per={per!r}: give {' or '.join(map(repr, LINES))}")
    if not folders:
        raise InputError("name a run folder: read_runs('runs/quickstart')")
    tables = [_table(collect(Path(folder)), LINES[per]) for folder in folders]
    found = pandas.concat([pandas.DataFrame(lines, columns=head) for head, lines in tables], ignore_index=True)
    # A metric that nothing has is a column of numbers, too.
    texts = ("run", "benchmark", "label", "method")
    return found.astype({name: float for name in found if name not in (*texts, "seed", "experience")})


def _table(run: Run, lines: Lines) -> tuple[list[str], list[list[object]]]:
    head, *rest = lines(run.cells)
    title = str(run.config.get("title", ""))
    return ["run", "benchmark", *map(str, head)], [[str(run.path), title, *line] for line in rest]
