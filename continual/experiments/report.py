"""What a run leaves in its folder beside its cells, and reports of one or several runs."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

from continual import files
from continual.console import check_folder as check_writable
from continual.console import count
from continual.errors import InputError
from continual.escaping import latex_comment, markdown
from continual.experiments import pictures, tables
from continual.experiments.comparison import Board
from continual.experiments.gallery import gallery
from continual.experiments.run_folder import Run
from continual.metrics import series
from continual.metrics.accuracy import accuracy
from continual.metrics.cell import Cell

PAGE = "report.html"


def write(title: str, cells: Sequence[Cell], out: Path) -> None:
    """Write results.json (`cells/` has the answers), results.csv, results.md and accuracy.png into a run folder."""
    about = ("label", "method", "seed", "settings", "backbone", "test_counts", "class_counts")
    measured = [{**{n: getattr(c, n) for n in about}, "accuracy": accuracy(c), **series(c)} for c in cells]
    files.write_text(out / "results.json", json.dumps(measured) + "\n")
    files.write_text(out / "results.csv", files.csv_text(tables.experience_lines(cells)))
    files.write_text(out / "results.md", f"# {markdown(title)}\n\n{tables.markdown(tables.results_table(cells))}")
    pictures.save(pictures.accuracy(cells, title), out / "accuracy.png")


def check_folder(out: Path) -> None:
    """Raise InputError unless `out` is new, empty, or holds a report."""
    if out.is_file():
        raise InputError(f"{out} is a file: name a folder for the report")
    if out.is_dir() and any(out.iterdir()) and not (out / PAGE).is_file():
        raise InputError(f"{out} is not empty and holds no report: choose another --out")
    check_writable(out)


#: metrics in the LaTeX table, unless others are asked for
COLUMNS = ("average", "final", "forgetting")


def _label(title: str, number: int) -> str:
    """Return a LaTeX label that follows the title, so that tables of two reports have labels of their own.

    >>> _label("CIFAR-100, B0 Inc5: 50 % of a_b", 1), _label("图", 2)
    ('tab:cifar-100-b0-inc5-50-of-a-b-1', 'tab:results-2')
    """
    return f"tab:{re.sub(r'[^a-z0-9]+', '-', title.lower()).strip('-') or 'results'}-{number}"


def write_report(
    boards: Sequence[Board], runs: Sequence[Run], out: Path, columns: Sequence[str] | None = None
) -> list[Path]:
    """Write a report into a folder and return its files, the page first.

    report.html is self-contained; table.md, .tex and .csv hold the results table, cells.csv every method with every
    seed, experiences.csv what was measured after each experience, pictures/ every picture as PNG. `columns` names the
    metrics of table.md (all main ones by default) and table.tex. Raises InputError for a metric that is not there.
    """
    from continual.experiments.page import page

    check_folder(out)
    shown = [(board, tables.results_table(board.cells, board.protocol, columns)) for board in boards]
    printed = [tables.results_table(board.cells, board.protocol, columns or COLUMNS) for board in boards]
    texts = {
        PAGE: page(boards, runs),
        "table.md": "\n".join(
            f"# {markdown(board.title)}\n\n{tables.markdown(table)}"
            + "".join(f"\n{markdown(note)}\n" for note in board.notes())
            for board, table in shown
        ),
        "table.tex": "\n".join(
            f"{latex_comment(board.title)}\n{tables.latex(table, _caption(board), _label(board.title, number))}"
            for number, (board, table) in enumerate(zip(boards, printed, strict=True), start=1)
        ),
        "table.csv": _joined(boards, [tables.result_lines(board.cells, board.protocol) for board in boards]),
        "cells.csv": _joined(boards, [tables.cell_lines(board.cells) for board in boards]),
        "experiences.csv": _joined(boards, [tables.experience_lines(board.cells) for board in boards]),
    }
    (out / "pictures").mkdir(parents=True, exist_ok=True)
    for name, text in texts.items():
        files.write_text(out / name, text)
    made = [out / name for name in texts]
    for number, board in enumerate(boards, start=1):
        for picture in gallery(board.cells):
            prefix = f"{number}-" if len(boards) > 1 else ""
            made.append(out / "pictures" / f"{prefix}{picture.name}.png")
            pictures.save(picture.figure, made[-1])
    return made


def write_parquet(runs: Sequence[Path], out: Path) -> list[Path]:
    """Write the tidy tables of `read_runs` into a folder as parquet, and return the files.

    Raises InputError without pandas or pyarrow.
    """
    from continual.experiments.frames import LINES, read_runs

    made = []
    for per in LINES:
        made.append(out / f"{per}s.parquet")
        table = read_runs(*runs, per=per)  # type: ignore[arg-type]
        with files.written(made[-1], InputError) as temporary:
            try:
                table.to_parquet(temporary, index=False)
            except ImportError:
                raise InputError('parquet needs pyarrow: pip install "equimos[pandas]"') from None
    return made


def _caption(board: Board) -> str:
    """Say of a LaTeX table what it holds."""
    cell, said = board.cells[0], "bold: best of the methods that keep no images"
    spread = f"mean ± standard deviation over {len(board.seeds)} seeds" if len(board.seeds) > 1 else "one seed"
    shape = f"{count(sum(cell.class_counts), 'class')} in {count(len(cell.class_counts), 'experience')}"
    return f"{board.title}: {shape}; {spread}; {said}."


def _joined(boards: Sequence[Board], found: Sequence[list[list[object]]]) -> str:
    """Join lines of several boards below one heading, with the board's title in front.

    A column that a board lacks, such as that of a group of transformations, is empty there.
    """
    headings = [*dict.fromkeys(str(heading) for first, *_ in found for heading in first)]
    lines = [
        [board.title, *map(dict(zip(first, line, strict=True)).get, headings)]
        for board, (first, *rest) in zip(boards, found, strict=True)
        for line in rest
    ]
    return files.csv_text([["benchmark", *headings], *lines])
