"""Results as a table (terminal, Markdown, CSV, JSON) and as a picture."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from rich.table import Table

from continual.bench.results import Cell, Row, rows

#: figure -> (heading, factor, decimals)
COLUMNS = {
    "average": ("average accuracy Ā [%]", 100, 1),
    "final": ("final accuracy [%]", 100, 1),
    "forgetting": ("forgetting [%]", 100, 1),
    "first_stack": ("right stack at first [%]", 100, 1),
    "stack": ("right stack refined [%]", 100, 1),
    "learning_seconds": ("learning [s]", 1, 0),
    "evaluation_seconds": ("evaluation [s]", 1, 0),
    "memory": ("memory [MiB]", 1, 2),
}


def lines(cells: Sequence[Cell]) -> tuple[list[str], list[list[str]]]:
    """Return the table's headings and lines as text; '–' where a method has no such figure."""
    table = rows(cells)
    shown = [key for key in COLUMNS if not all(np.isnan(row.mean[key]) for row in table)]
    return ["method", *[COLUMNS[key][0] for key in shown]], [
        [row.label, *[_text(row, key) for key in shown]] for row in table
    ]


def _text(row: Row, key: str) -> str:
    _, factor, decimals = COLUMNS[key]
    if np.isnan(row.mean[key]):
        return "–"
    text = f"{factor * row.mean[key]:.{decimals}f}"
    return text if row.seeds == 1 else f"{text} ± {factor * row.deviation[key]:.{decimals}f}"


def terminal(title: str, cells: Sequence[Cell]) -> Table:
    """Return the table for a terminal."""
    headings, body = lines(cells)
    table = Table(title=title)
    for number, heading in enumerate(headings):
        table.add_column(heading, justify="left" if number == 0 else "right")
    for line in body:
        table.add_row(*line)
    return table


def markdown(cells: Sequence[Cell]) -> str:
    """Return the table as Markdown."""
    headings, body = lines(cells)
    rule = ["---", *["---:"] * (len(headings) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (headings, rule, *body)) + "\n"


def picture(title: str, cells: Sequence[Cell], path: Path) -> None:
    """Draw accuracy on all classes seen against experiences, one line a method, with the seeds' spread."""
    # The object interface, not pyplot: no global state, no display needed.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for label in dict.fromkeys(cell.label for cell in cells):
        curves = 100 * np.array([cell.seen_accuracy() for cell in cells if cell.label == label])
        steps, mean = np.arange(1, curves.shape[1] + 1), curves.mean(0)
        (line,) = axes.plot(steps, mean, marker="o", markersize=4, label=label)
        if len(curves) > 1:
            spread = curves.std(0, ddof=1)
            axes.fill_between(steps, mean - spread, mean + spread, alpha=0.15, color=line.get_color())
    axes.set(xlabel="experiences learned", ylabel="accuracy on all classes seen [%]", title=title, ylim=(0, 102))
    axes.set_xticks(range(1, 1 + max(len(cell.accuracy) for cell in cells)))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=150)


def write(title: str, cells: Sequence[Cell], out: Path) -> None:
    """Write results.json, results.csv, results.md and accuracy.png into a run folder."""
    (out / "results.json").write_text(json.dumps([vars(cell) for cell in cells], indent=1) + "\n")
    (out / "results.md").write_text(f"# {title}\n\n{markdown(cells)}", encoding="utf-8")
    with (out / "results.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["label", "method", "seed", "experience", "seen_accuracy", "learning_s", "evaluation_s"])
        for cell in cells:
            for number, accuracy in enumerate(cell.seen_accuracy()):
                times = cell.learning_seconds[number], cell.evaluation_seconds[number]
                writer.writerow([cell.label, cell.method, cell.seed, number + 1, accuracy, *times])
    picture(title, cells, out / "accuracy.png")
