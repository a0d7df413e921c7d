"""Results as a table: for a terminal, in Markdown, LaTeX and CSV."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table as TerminalTable
from rich.text import Text

from continual import escaping
from continual.experiments.published import Figure, Protocol
from continual.experiments.results import Row, rows
from continual.metrics import METRICS, measures
from continual.metrics.base import Metric
from continual.metrics.cell import Cell

ABSENT = "–"  #: where a method has no such figure


@dataclass(frozen=True)
class Table:
    """Headings and lines of text; the first column is the method's label."""

    headings: list[str]
    lines: list[list[str]]


def results_table(cells: Sequence[Cell], protocol: Protocol | None = None) -> Table:
    """Return the results table, with the published accuracies of `protocol` in columns of their own.

    A published figure stands in the line that bears its method's name, or else in the method's first line.
    """
    table = rows(cells)
    columns, named = _columns(cells, table, "main"), _published(table, protocol)
    for name, heading in (("average", "Ā"), ("final", "final")) if named else ():
        values = [f"{100 * getattr(named[n], name):.2f}" if n in named else ABSENT for n in range(len(table))]
        place = [column[0] for column in columns].index(METRICS.get(name).heading)
        columns.insert(place + 1, [f"published {heading} [%]", *values])
    return _transposed(columns)


def further_table(cells: Sequence[Cell]) -> Table:
    """Return the table of further measures."""
    return _transposed(_columns(cells, rows(cells), "further"))


def _transposed(columns: list[list[str]]) -> Table:
    headings, *lines = zip(*columns, strict=True)
    return Table([*headings], [[*line] for line in lines])


def _columns(cells: Sequence[Cell], table: Sequence[Row], name: str) -> list[list[str]]:
    """Return columns of text, without those that are empty."""
    metrics = [m for m in measures(cells) if m.table == name and any(row.mean[m.name] is not None for row in table)]
    body = [[m.heading, *[_text(row, m) for row in table]] for m in metrics]
    return [["method", *[row.label for row in table]], *body]


def _text(row: Row, metric: Metric) -> str:
    mean, deviation = row.mean[metric.name], row.deviation[metric.name]
    if mean is None:
        return ABSENT
    text = f"{metric.factor * mean:.{metric.decimals}f}"
    return text if deviation is None else f"{text} ± {metric.factor * deviation:.{metric.decimals}f}"


def _published(table: Sequence[Row], protocol: Protocol | None) -> dict[int, Figure]:
    """Return a protocol's figures by the lines in which they are shown."""
    found: dict[int, Figure] = {}
    for method in {row.method for row in table}:
        lines = [number for number, row in enumerate(table) if row.method == method]
        if protocol and (figure := protocol.figure(method)):
            found[next((n for n in lines if table[n].label == method), lines[0])] = figure
    return found


def terminal(title: str, table: Table) -> TerminalTable:
    """Return a table for a terminal."""
    # Labels and titles come from users: they are text, never markup.
    shown = TerminalTable(title=Text(escaping.terminal(title)), box=box.ROUNDED)
    for number, heading in enumerate(table.headings):
        shown.add_column(Text(escaping.terminal(heading)), justify="left" if number == 0 else "right", overflow="fold")
    for line in table.lines:
        shown.add_row(*[Text(escaping.terminal(text)) for text in line])
    return shown


def markdown(table: Table) -> str:
    """Return a table as Markdown."""
    rule = ["---", *["---:"] * (len(table.headings) - 1)]
    head, *lines = [map(escaping.markdown, line) for line in (table.headings, *table.lines)]
    return "".join(f"| {' | '.join(line)} |\n" for line in (head, rule, *lines))


def latex(table: Table) -> str:
    """Return a table as LaTeX, for the package booktabs."""
    head, *lines = [" & ".join(map(escaping.latex, line)) + r" \\" for line in (table.headings, *table.lines)]
    columns = "l" + "r" * (len(table.headings) - 1)
    body = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", head, r"\midrule", *lines, r"\bottomrule"]
    return "\n".join([*body, r"\end{tabular}"]) + "\n"


def result_lines(cells: Sequence[Cell], protocol: Protocol | None = None) -> list[list[object]]:
    """Return headings, then every figure of every label in shares, seconds and bytes; None where there is none."""
    table = rows(cells)
    keys, named = [*table[0].mean], _published(table, protocol)
    headings = ["label", "method", "seeds", *[f"{key}{part}" for key in keys for part in ("", "_sd")]]
    lines: list[list[object]] = []
    for number, row in enumerate(table):
        figures = [values[key] for key in keys for values in (row.mean, row.deviation)]
        published = [getattr(named.get(number), key, None) for key in ("average", "final")]
        lines.append([row.label, row.method, row.seeds, *figures, *published])
    return [[*headings, "published_average", "published_final"], *lines]


def experience_lines(cells: Sequence[Cell]) -> list[list[object]]:
    """Return headings, then what every cell measured, one line per experience."""
    metrics = {metric.column: metric for metric in measures(cells)}
    lines: list[list[object]] = []
    for cell in cells:
        columns = enumerate(zip(*[metric(cell) for metric in metrics.values()], strict=True), start=1)
        lines += [[cell.label, cell.method, cell.seed, number, *values] for number, values in columns]
    return [["label", "method", "seed", "experience", *metrics], *lines]
