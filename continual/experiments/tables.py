"""Results as a table: for a terminal, in Markdown, LaTeX and CSV."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from rich import box
from rich.table import Table as TerminalTable
from rich.text import Text

from continual import escaping
from continual.errors import InputError, nearest
from continual.experiments.published import TOLERANCE, Figure, Protocol
from continual.experiments.results import Row, keeps_images, rows
from continual.metrics import measures
from continual.metrics.base import Metric
from continual.metrics.cell import Cell

ABSENT = "–"  #: where a method has no such figure, or where it would mean nothing
PUBLISHED = {"average": "published Ā [%]", "final": "published final [%]"}
VERDICT = f"verdict, within {TOLERANCE:g} point"


@dataclass(frozen=True)
class Table:
    """Headings and lines of text; the first column is the method's label."""

    headings: list[str]
    lines: list[list[str]]
    arrows: list[str] = field(default_factory=list)  #: ↑ or ↓ for each heading, or nothing
    best: frozenset[tuple[int, int]] = frozenset()  #: line and column of the best values

    def shown_headings(self) -> list[str]:
        """The headings with their arrows."""
        arrows = self.arrows or [""] * len(self.headings)
        return [f"{heading} {arrow}".rstrip() for heading, arrow in zip(self.headings, arrows, strict=True)]


@dataclass(frozen=True)
class _Column:
    heading: str
    values: list[str]
    arrow: str = ""
    best: frozenset[int] = frozenset()


def results_table(
    cells: Sequence[Cell],
    protocol: Protocol | None = None,
    columns: Sequence[str] | None = None,
    *,
    brief: bool = False,
) -> Table:
    """Return the results table, with the published accuracies of `protocol`, and a verdict, in columns of their own.

    A published figure stands in the line that bears its method's name, or else in the method's first line. `columns`
    names the metrics to show, `brief` shows the few that fit a terminal; the main ones are shown by default. Raises
    InputError for a metric that is not there.
    """
    found = rows(cells)
    named = _published(found, protocol)
    shown: list[_Column] = [_Column("method", [row.label for row in found])]
    for metric in _chosen(measures(cells), columns, brief=brief):
        if columns or any(row.mean[metric.name] is not None for row in found):
            shown.append(_column(found, metric))
        if named and metric.name in PUBLISHED:
            values = [
                f"{100 * getattr(named[n], metric.name):.2f}" if n in named else ABSENT for n in range(len(found))
            ]
            shown.append(_Column(PUBLISHED[metric.name], values))
    if named:
        shown.append(_Column(VERDICT, [_verdict(row, named.get(n)) or ABSENT for n, row in enumerate(found)]))
    return _table(shown)


def further_table(cells: Sequence[Cell]) -> Table:
    """Return the table of further measures."""
    found = rows(cells)
    further = [
        m for m in measures(cells) if m.table == "further" and any(row.mean[m.name] is not None for row in found)
    ]
    return _table([_Column("method", [row.label for row in found]), *[_column(found, metric) for metric in further]])


def _chosen(known: Sequence[Metric], columns: Sequence[str] | None, *, brief: bool) -> list[Metric]:
    if columns is None:
        return [m for m in known if m.table == "main" and (m.brief or not brief)]
    names = {metric.name: metric for metric in known}
    if unknown := [name for name in columns if name not in names]:
        raise InputError(f"unknown column {unknown[0]!r}: {nearest(unknown[0], names)}")
    return [names[name] for name in columns]


def _column(found: Sequence[Row], metric: Metric) -> _Column:
    return _Column(metric.heading, [_text(row, metric) for row in found], metric.arrow, _best(found, metric))


def _best(found: Sequence[Row], metric: Metric) -> frozenset[int]:
    """Return the lines with the best value as it is shown; none where all are alike.

    Methods that keep images are a bound for the others, and no rivals.
    """
    if metric.higher_is_better is None:
        return frozenset()
    values = {n: round(metric.factor * mean, metric.decimals) for n, row in enumerate(found)
              if (mean := row.mean[metric.name]) is not None and not keeps_images(row.method)}  # fmt: skip
    if len({*values.values()}) < 2:
        return frozenset()
    best = (max if metric.higher_is_better else min)(values.values())
    return frozenset(n for n, value in values.items() if value == best)


def _table(columns: Sequence[_Column]) -> Table:
    lines = [list(line) for line in zip(*[column.values for column in columns], strict=True)]
    best = frozenset((line, place) for place, column in enumerate(columns) for line in column.best)
    return Table([column.heading for column in columns], lines, [column.arrow for column in columns], best)


def _text(row: Row, metric: Metric) -> str:
    mean, deviation = row.mean[metric.name], row.deviation[metric.name]
    if mean is None:
        return ABSENT
    text = f"{metric.factor * mean:.{metric.decimals}f}"
    return text if deviation is None else f"{text} ± {metric.factor * deviation:.{metric.decimals}f}"


def _verdict(row: Row, figure: Figure | None) -> str | None:
    average, final = row.mean["average"], row.mean["final"]
    return None if figure is None or average is None or final is None else figure.verdict(average, final)


def _published(table: Sequence[Row], protocol: Protocol | None) -> dict[int, Figure]:
    """Return a protocol's figures by the lines in which they are shown."""
    found: dict[int, Figure] = {}
    for method in {row.method for row in table}:
        lines = [number for number, row in enumerate(table) if row.method == method]
        if protocol and (figure := protocol.figure(method)):
            found[next((n for n in lines if table[n].label == method), lines[0])] = figure
    return found


def terminal(title: str, table: Table) -> TerminalTable:
    """Return a table for a terminal; long headings are wrapped, values are not."""
    # Labels and titles come from users: they are text, never markup.
    shown = TerminalTable(title=Text(escaping.terminal(title)), box=box.ROUNDED)
    for number, heading in enumerate(table.shown_headings()):
        name, _, unit = escaping.terminal(heading).partition(" [")  # the unit and its arrow have a line of their own
        shown.add_column(
            Text(f"{name}\n[{unit}" if unit else name), justify="left" if number == 0 else "right", overflow="fold",
            min_width=max((len(line[number]) for line in table.lines), default=0) if number else None,
        )  # fmt: skip
    for number, line in enumerate(table.lines):
        styles = ["bold" if (number, place) in table.best else "" for place in range(len(line))]
        shown.add_row(*[Text(escaping.terminal(text), style) for text, style in zip(line, styles, strict=True)])
    return shown


def markdown(table: Table) -> str:
    """Return a table as Markdown, the best values bold."""
    rule = ["---", *["---:"] * (len(table.headings) - 1)]
    lines = [
        [escaping.markdown(heading) for heading in table.headings],
        rule,
        *_marked(table, escaping.markdown, "**{}**"),
    ]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def latex(table: Table, caption: str = "", label: str = "") -> str:
    """Return a table as LaTeX, for the package booktabs, the best values bold; floating if it has a caption."""
    arrows = {"↑": r" $\uparrow$", "↓": r" $\downarrow$", "": ""}
    known = table.arrows or [""] * len(table.headings)
    head = [escaping.latex(text) + arrows[arrow] for text, arrow in zip(table.headings, known, strict=True)]
    body = [" & ".join(line) + r" \\" for line in _marked(table, escaping.latex, r"\textbf{{{}}}")]
    columns = "l" + "r" * (len(table.headings) - 1)
    lines = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", " & ".join(head) + r" \\", r"\midrule"]
    lines += [*body, r"\bottomrule", r"\end{tabular}"]
    if caption:
        begin = [r"\begin{table}", r"\centering", rf"\caption{{{escaping.latex(caption)}}}", rf"\label{{{label}}}"]
        lines = [*begin, *lines, r"\end{table}"]
    return "\n".join(lines) + "\n"


def _marked(table: Table, escape: Callable[[str], str], bold: str) -> list[list[str]]:
    return [
        [
            bold.format(escape(text)) if (number, place) in table.best else escape(text)
            for place, text in enumerate(line)
        ]
        for number, line in enumerate(table.lines)
    ]


def result_lines(cells: Sequence[Cell], protocol: Protocol | None = None) -> list[list[object]]:
    """Return headings, then every figure of every label in shares, seconds and bytes; None where there is none."""
    table = rows(cells)
    keys, named = [*table[0].mean], _published(table, protocol)
    headings = ["label", "method", "seeds", *[f"{key}{part}" for key in keys for part in ("", "_sd")]]
    lines: list[list[object]] = []
    for number, row in enumerate(table):
        figures = [values[key] for key in keys for values in (row.mean, row.deviation)]
        published = [getattr(named.get(number), key, None) for key in ("average", "final")]
        lines.append([row.label, row.method, row.seeds, *figures, *published, _verdict(row, named.get(number))])
    return [[*headings, "published_average", "published_final", "verdict"], *lines]


def cell_lines(cells: Sequence[Cell]) -> list[list[object]]:
    """Return headings, then the figures of every method with every seed, one line each."""
    metrics = measures(cells)
    figures = [[metric.figure(cell) for metric in metrics] for cell in cells]
    lines: list[list[object]] = [
        [cell.label, cell.method, cell.seed, *values] for cell, values in zip(cells, figures, strict=True)
    ]
    return [["label", "method", "seed", *[metric.name for metric in metrics]], *lines]


def experience_lines(cells: Sequence[Cell]) -> list[list[object]]:
    """Return headings, then what every cell measured, one line per experience."""
    metrics = {metric.column: metric for metric in measures(cells)}
    lines: list[list[object]] = []
    for cell in cells:
        series = [metric(cell) for metric in metrics.values()]
        columns = enumerate(zip(*series, strict=True), start=1)
        lines += [[cell.label, cell.method, cell.seed, number, *values] for number, values in columns]
    return [["label", "method", "seed", "experience", *metrics], *lines]
