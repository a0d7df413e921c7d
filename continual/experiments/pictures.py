"""Pictures of results: curves over the experiences, heat maps, forgetting, reliability.

Each function returns a matplotlib figure drawn in neutral ink. `save` writes it on white; `inline` makes it a part of a
page, with transparent ground and the page's own text colour and font, for light and dark.
"""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from continual import files
from continual.errors import InputError
from continual.escaping import plot, terminal
from continual.experiments.results import by_label
from continual.metrics import transfer
from continual.metrics.accuracy import final, matrix
from continual.metrics.base import Metric
from continual.metrics.calibration import expected_calibration_error, last_reliability
from continual.metrics.cell import Cell
from continual.metrics.retrieval import choices, first_choices

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: One per method; each has a contrast of 3 or more both with white and with the page's dark ground.
COLOURS = (
    "#2f80d0", "#d4620e", "#23915a", "#c2479b", "#8268d6",
    "#a87d14", "#168c9c", "#d6473f", "#78848f", "#6f8f1c",
)  # fmt: skip
INK = "#1f2933"  #: stands for the page's text colour until the picture is on one
MARKERS = "osD^vPX*<>"
TAG = re.compile(r"<[^>]*>")
STEP = re.compile(r"\s*\b([A-Za-z])\s+")  #: a letter of a path, with the space around it

#: draws one label's cells on axes in a style, whose label it may change
Draw = Callable[[Any, list[Cell], dict[str, Any]], None]


def accuracy(cells: Sequence[Cell], title: str = "") -> Figure:
    """Draw the accuracy on all classes seen after each experience."""
    return panels(cells, {final: title}, "accuracy on classes seen [%]", limits=(0, 102))


def curves(cells: Sequence[Cell], metric: Metric) -> Figure:
    """Draw a metric against experiences, a line per label: the seeds' mean, and ± their deviation."""
    return panels(cells, {metric: ""}, metric.heading)


def panels(
    cells: Sequence[Cell], metrics: Mapping[Metric, str], heading: str, limits: tuple[float, float] | None = None
) -> Figure:
    """Draw several metrics side by side on one scale, as `curves` draws one; with their titles."""
    # Many bands lie on one another: fainter, the lines can still be distinguished.
    shade = 0.18 if len({cell.label for cell in cells}) <= 4 else 0.07

    def drawing(metric: Metric) -> Draw:
        def draw(axes: Any, alike: list[Cell], style: dict[str, Any]) -> None:
            values = metric.factor * np.array([metric(cell) for cell in alike], dtype=np.float64)
            steps, mean = np.arange(1, values.shape[1] + 1), values.mean(0)
            axes.plot(steps, mean, **style)
            if len(values) > 1:
                spread = values.std(0, ddof=1)
                axes.fill_between(steps, mean - spread, mean + spread, alpha=shade, color=style["color"], linewidth=0)

        return draw

    figure = _lines(cells, {title: drawing(metric) for metric, title in metrics.items()})
    for axes in figure.axes:
        axes.set(xlabel="experiences learned", ylim=limits if limits else (min(0, axes.get_ylim()[0]), None))
        axes.set_xticks(_ticks(max(len(cell.evaluations) for cell in cells)))
    figure.axes[0].set_ylabel(heading)
    return figure


def forgetting(cells: Sequence[Cell]) -> Figure:
    """Draw how much of each experience is forgotten at the end; the last has had no time to be."""

    def draw(axes: Any, alike: list[Cell], style: dict[str, Any]) -> None:
        values = 100 * np.array([transfer.experience_forgetting(matrix(cell)) for cell in alike])
        steps = np.arange(1, values.shape[1] + 1)
        error = values.std(0, ddof=1) if len(values) > 1 else None
        axes.errorbar(steps, values.mean(0), error, capsize=2, elinewidth=1, **style)

    figure = _lines(cells, {"": draw})
    figure.axes[0].set(xlabel="experience", ylabel="forgotten at the end [%]")
    figure.axes[0].set_xticks(_ticks(max(len(cell.evaluations) for cell in cells) - 1))
    return figure


def reliability(cells: Sequence[Cell]) -> Figure:
    """Draw the share answered right against confidence, over the last models of all seeds; the diagonal is perfect."""

    def draw(axes: Any, alike: list[Cell], style: dict[str, Any]) -> None:
        table = last_reliability(alike)
        count, confidence, right = table[table[:, 0] > 0].T
        error = expected_calibration_error(table)
        style["label"] = f"{style['label']} ({100 * (error or 0):.1f} %)"
        axes.plot(100 * confidence / count, 100 * right / count, **style)

    figure = _lines(cells, {"": draw})
    figure.axes[0].plot([0, 100], [0, 100], color=INK, linewidth=0.8, linestyle=":")
    labels = {"xlabel": "mean confidence of a bin [%]", "ylabel": "answered right [%]"}
    figure.axes[0].set(**labels, xlim=(0, 102), ylim=(0, 102))
    return figure


def accuracy_matrix(cells: Sequence[Cell]) -> Figure:
    """Draw the mean accuracy matrix of one label's cells: rows learned so far, columns the experience tested."""
    mean = 100 * np.mean([matrix(cell) for cell in cells], axis=0)
    return _heat_maps([("", mean)], "tested on experience", "experiences learned")


def retrieval(cells: Sequence[Cell]) -> Figure:
    """Draw, for one label's cells, how often each stack was chosen for the images of each, before and after."""
    maps = []
    for title, tables in (("at first", first_choices), ("refined", choices)):
        counts = np.sum([tables(cell)[-1] for cell in cells], axis=0)
        maps.append((title, 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)))
    return _heat_maps(maps, "chosen stack", "right stack")


def _lines(cells: Sequence[Cell], drawings: Mapping[str, Draw]) -> Figure:
    """Draw every label's cells on axes side by side, which have titles and one legend."""
    # The object interface, not pyplot: no global state, no display needed.
    from matplotlib.figure import Figure

    grouped = by_label(cells)
    # Room for the legend below, two labels a line.
    width = 4.6 if len(drawings) == 1 else 3.2 * len(drawings)
    figure = Figure(figsize=(width, 3.2 + 0.1 * len(grouped)), layout="constrained")
    every = figure.subplots(1, len(drawings), squeeze=False, sharey=True)[0]
    for number, (label, alike) in enumerate(grouped.items()):
        style = {"label": plot(label), "color": COLOURS[number % len(COLOURS)], "markersize": 4, "linewidth": 1.5}
        style["linestyle"] = ("-", "--", ":")[number // len(COLOURS) % 3]
        style["marker"] = MARKERS[number % len(MARKERS)]
        for axes, draw in zip(every, drawings.values(), strict=True):
            draw(axes, alike, style)
    for axes, title in zip(every, drawings, strict=True):
        _ink(axes)
        axes.set_title(plot(title), color=INK, fontsize=10)
        axes.grid(color=INK, alpha=0.15, linewidth=0.6)
    handles, labels = every[0].get_legend_handles_labels()
    if handles:
        figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False, labelcolor=INK, fontsize=9)
    return figure


def _heat_maps(maps: Sequence[tuple[str, Any]], across: str, down: str) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.7 if len(maps) == 1 else 2.6), layout="constrained")
    every = figure.subplots(1, len(maps), squeeze=False)[0]
    for axes, (title, values) in zip(every, maps, strict=True):
        size, ticks = len(values) + 0.5, _ticks(len(values), most=10 // len(maps))
        place = {"interpolation": "none", "extent": (0.5, size, size, 0.5)}
        image = axes.imshow(values, cmap="viridis", vmin=0, vmax=100, **place)
        axes.set(xlabel=across, ylabel=down if axes is every[0] else "", xticks=ticks, yticks=ticks)
        axes.set_title(title, color=INK, fontsize=10)
        _ink(axes)
        if len(values) * len(maps) <= 12:
            for (row, column), value in np.ndenumerate(values):
                if not np.isnan(value):
                    colour = "black" if value > 55 else "white"
                    axes.text(column + 1, row + 1, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=8)
    bar = figure.colorbar(image, ax=figure.axes, shrink=0.8, label="[%]")
    _ink(bar.ax)
    return figure


def _ink(axes: Any) -> None:
    axes.patch.set_visible(False)
    axes.tick_params(colors=INK, labelsize=9)
    axes.xaxis.label.set_color(INK)
    axes.yaxis.label.set_color(INK)
    for spine in axes.spines.values():
        spine.set_color(INK)


def _ticks(count: int, most: int = 10) -> list[int]:
    """Number experiences from 1, at most so many of them."""
    return [*range(1, count + 1, max(1, -(-count // most)))]


def save(figure: Figure, path: Path) -> None:
    """Write a PNG on white."""
    with files.written(path, InputError) as place, _quiet():
        figure.savefig(place, dpi=150, facecolor="white", format="png")


def inline(figure: Figure, name: str, description: str, classes: dict[str, str]) -> str:
    """Return an SVG element for a page; `name` and `classes` are as in `_piece`."""
    import matplotlib

    text = io.StringIO()
    with _quiet(), matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=nothing)
    return _piece(text.getvalue(), name, description, classes)


@contextmanager
def _quiet() -> Iterator[None]:
    """Letters that matplotlib's font lacks are shown by the browser's, and as boxes in a PNG: no warning."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        yield


def _piece(svg: str, name: str, description: str, classes: dict[str, str]) -> str:
    """Make a picture as matplotlib writes it in SVG a piece of a page: small, in the page's own colour and font.

    `name` sets its ids apart from those of other pictures on the page. Styles are in `classes`, style to class, which
    all pictures share and the page writes down; what is drawn in INK takes the page's text colour. Coordinates are
    rounded to a hundredth of a point. Groups without attributes, names nothing refers to and white space are left out.
    """
    svg = re.sub(r">\s+<", "><", svg[svg.index("<svg") :])
    svg = re.sub(r"<defs><style.*?</style></defs>", "", svg, count=1, flags=re.DOTALL)  # the page's own
    ids = dict.fromkeys(re.findall(r'(?:href="|url\()#([^")]*)', svg))
    short = {long: f"{name}-{number}" for number, long in enumerate(ids)}
    groups: list[bool] = []  # of those open, whether they are kept

    def letter(match: re.Match[str]) -> str:
        return match[1]

    def styled(match: re.Match[str]) -> str:
        style = re.sub(r" ?font-family: [^;]*;| (?=\S+:)|(?<=:) ", "", match[1].replace(INK, "currentColor"))
        return f' class="{classes.setdefault(style, f"s{len(classes)}")}"'

    def smaller(match: re.Match[str]) -> str:
        tag = re.sub(r' id="([^"]*)"', lambda m: f' id="{short[m[1]]}"' if m[1] in short else "", match[0])
        if tag.startswith("<g") and not tag.endswith("/>"):
            groups.append(tag != "<g>")
        if tag in ("<g>", "<g/>") or (tag == "</g>" and not groups.pop()):
            return ""
        tag = re.sub(r"-?\d+\.\d+", lambda m: f"{float(m[0]):.2f}".rstrip("0").rstrip("."), tag)
        tag = re.sub(r' transform="rotate\(-?0 [^"]*"', "", tag)
        tag = re.sub(r' d="([^"]*)"', lambda m: f' d="{STEP.sub(letter, m[1]).strip()}"', tag)
        tag = re.sub(r' style="([^"]*)"', styled, tag)
        return re.sub(r'(href="|url\()#([^")]*)', lambda m: f"{m[1]}#{short[m[2]]}", tag)

    said = f'role="img" aria-label="{escape(terminal(description), quote=True)}"'
    return re.sub(r'width="[^"]*" height="[^"]*"', lambda _: said, TAG.sub(smaller, svg), count=1)
