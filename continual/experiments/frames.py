"""Results of runs as tidy tables of pandas: one line per observation, one column per variable."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from continual import files
from continual.errors import InputError
from continual.experiments.run_folder import Run, collect, runs_in
from continual.experiments.tables import cell_lines, experience_lines
from continual.metrics.cell import Cell

if TYPE_CHECKING:
    from pandas import DataFrame

Lines = Callable[[Sequence[Cell]], list[list[object]]]
LINES: dict[str, Lines] = {"cell": cell_lines, "experience": experience_lines}


def read_runs(*folders: str | PathLike[str], per: Literal["cell", "experience"] = "cell") -> DataFrame:
    """Read the finished cells of run folders, and of folders of sweeps, into a table of pandas.

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
    runs = [run for folder in folders for run in runs_in(Path(folder))]
    tables = [_table(collect(run), LINES[per]) for run in runs]
    return _typed(pandas.concat([pandas.DataFrame(lines, columns=head) for head, lines in tables], ignore_index=True))


def write_experiences(file: Path, run: Path, title: str, cells: Sequence[Cell]) -> None:
    """Write what a cell and its variants measured as one file of a parquet data set, a line per experience.

    Raises InputError without pandas or pyarrow, and if it cannot be written.
    """
    try:
        import pandas
        import pyarrow  # noqa: F401 - pandas would say so much later
    except ImportError:
        raise InputError('parquet needs pandas and pyarrow: pip install "equimos[pandas]"') from None
    head, lines = _with_run(run, title, experience_lines(cells))
    file.parent.mkdir(parents=True, exist_ok=True)
    with files.written(file, InputError) as temporary:
        _typed(pandas.DataFrame(lines, columns=head)).to_parquet(temporary, index=False)


def _table(run: Run, lines: Lines) -> tuple[list[str], list[list[object]]]:
    return _with_run(run.path, str(run.config.get("title", "")), lines(run.cells))


def _with_run(path: Path, title: str, lines: list[list[object]]) -> tuple[list[str], list[list[object]]]:
    head, *rest = lines
    return ["run", "benchmark", *map(str, head)], [[str(path), title, *line] for line in rest]


def _typed(found: DataFrame) -> DataFrame:
    # A metric that nothing has is a column of numbers, too.
    texts = ("run", "benchmark", "label", "method")
    return found.astype({name: float for name in found if name not in (*texts, "seed", "experience")})
