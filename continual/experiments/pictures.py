"""Pictures of results: curves over the experiences, cost, forgetting, reliability; `heat_maps` has the matrices.

Each function returns a matplotlib figure in the style of `equivariant.style`, with names where lines end. `save` writes
it on white; `continual.experiments.svg.inline` makes it a part of a page.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zlib import crc32

import numpy as np

from continual import files
from continual.errors import InputError
from continual.escaping import plot
from continual.experiments.results import by_label
from continual.experiments.svg import quiet
from continual.metrics import transfer
from continual.metrics.accuracy import average, final, matrix
from continual.metrics.base import Metric
from continual.metrics.calibration import expected_calibration_error, last_reliability
from continual.metrics.cell import Cell
from continual.metrics.cost import learning_seconds
from equivariant.style import INK, Look, ink, looks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Looks = Mapping[str, Look]
SMALL = 7.5  #: size of the names in a picture, in points
LONGEST = 22  #: letters of a name in a picture

#: draws one label's cells on axes in a style, and returns the name to write at the line's end
Draw = Callable[[Any, list[Cell], dict[str, Any]], str]


def looks_of(cells: Sequence[Cell]) -> dict[str, Look]:
    """Return the look of each label; see `equivariant.style.looks`."""
    return looks({cell.label: cell.method for cell in cells})


def series_name(label: str) -> str:
    """Return the name under which everything of a label is grouped in a picture."""
    return f"series-{crc32(label.encode()):08x}"


def accuracy(cells: Sequence[Cell], title: str = "", known: Looks | None = None) -> Figure:
    """Draw the accuracy on all classes seen after each experience."""
    return panels(cells, {final: title}, "accuracy on classes seen [%]", limits=(0, 102), known=known)


def curves(cells: Sequence[Cell], metric: Metric, known: Looks | None = None) -> Figure:
    """Draw a metric against experiences, a line per label: the seeds' mean, and ± their deviation."""
    return panels(cells, {metric: ""}, metric.heading, known=known)


def panels(
    cells: Sequence[Cell],
    metrics: Mapping[Metric, str],
    heading: str,
    limits: tuple[float, float] | None = None,
    known: Looks | None = None,
) -> Figure:
    """Draw several metrics side by side on one scale, as `curves` draws one; with their titles."""

    def drawing(metric: Metric) -> Draw:
        def draw(axes: Any, alike: list[Cell], style: dict[str, Any]) -> str:
            values = metric.factor * np.array([metric(cell) for cell in alike], dtype=np.float64)
            _band(axes, values, style, shade=0.18 if len({cell.label for cell in cells}) <= 4 else 0.07)
            return short(alike[0].label)

        return draw

    figure = _lines(cells, {title: drawing(metric) for metric, title in metrics.items()}, known)
    for axes in figure.axes:
        axes.set(xlabel="experiences learned", ylim=limits if limits else (min(0, axes.get_ylim()[0]), None))
        axes.set_xticks(ticks(max(len(cell.evaluations) for cell in cells)))
    figure.axes[0].set_ylabel(heading)
    return _named(figure)


def forgetting(cells: Sequence[Cell], known: Looks | None = None) -> Figure:
    """Draw how much of each experience is forgotten at the end; the last has had no time to be."""

    def draw(axes: Any, alike: list[Cell], style: dict[str, Any]) -> str:
        _band(axes, 100 * np.array([transfer.experience_forgetting(matrix(cell)) for cell in alike]), style)
        return short(alike[0].label)

    figure = _lines(cells, {"": draw}, known)
    figure.axes[0].set(xlabel="experience", ylabel="forgotten at the end [%]")
    figure.axes[0].set_xticks(ticks(max(len(cell.evaluations) for cell in cells) - 1))
    return _named(figure)


def reliability(cells: Sequence[Cell], known: Looks | None = None) -> Figure:
    """Draw the share answered right against confidence, over the last models of all seeds; the diagonal is perfect."""

    def draw(axes: Any, alike: list[Cell], style: dict[str, Any]) -> str:
        table = last_reliability(alike)
        images, confidence, right = table[table[:, 0] > 0].T
        axes.plot(100 * confidence / images, 100 * right / images, **style)
        return f"{short(alike[0].label)} ({100 * (expected_calibration_error(table) or 0):.1f} %)"

    figure = _lines(cells, {"": draw}, known)
    figure.axes[0].plot([0, 100], [0, 100], color=INK, linewidth=0.8, linestyle=":")
    labels = {"xlabel": "mean confidence of a bin [%]", "ylabel": "answered right [%]"}
    figure.axes[0].set(**labels, xlim=(0, 102), ylim=(0, 102))
    return _named(figure)


def cost(cells: Sequence[Cell], metric: Metric = learning_seconds, known: Looks | None = None) -> Figure:
    """Draw the average accuracy against what it costs, a point per label: up and left is better."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4.6, 3.6), layout="constrained")
    axes: Any = figure.subplots()
    grouped, known = by_label(cells), known or looks_of(cells)
    points: dict[str, tuple[float, float]] = {}
    for label, alike in grouped.items():
        price = [metric.figure(cell) for cell in alike]
        right = [average.figure(cell) for cell in alike]
        if None in price or None in right:
            continue
        x, y = (float(np.mean(np.array(v, dtype=np.float64))) for v in (price, right))
        points[label] = metric.factor * x, 100 * y
        style = {"color": known[label].colour, "marker": known[label].marker, "markersize": 6, "linestyle": ""}
        error = 100 * np.std(np.array(right, dtype=np.float64), ddof=1) if len(right) > 1 else None
        drawn = axes.errorbar(*points[label], error, capsize=2, elinewidth=1, **style)
        for artist in (drawn.lines[0], *drawn.lines[1], *drawn.lines[2]):
            artist.set_gid(series_name(label))
    costs = [x for x, _ in points.values()]
    if costs and min(costs) > 0 and max(costs) > 10 * min(costs):
        axes.set_xscale("log")
    axes.set(xlabel=metric.heading, ylabel=average.heading)
    axes.margins(0.12)
    ink(axes)
    _beside(axes, points, known)
    return figure


def _band(axes: Any, values: Any, style: dict[str, Any], shade: float = 0.1) -> None:
    """Draw the mean of values (seeds, steps), and ± their deviation where there are several seeds."""
    steps, mean = np.arange(1, values.shape[1] + 1), values.mean(0)
    axes.plot(steps, mean, **style)
    if len(values) > 1:
        spread = values.std(0, ddof=1)
        look = {"color": style["color"], "linewidth": 0, "gid": style["gid"]}
        axes.fill_between(steps, mean - spread, mean + spread, alpha=shade, **look)


def _lines(cells: Sequence[Cell], drawings: Mapping[str, Draw], known: Looks | None) -> Figure:
    """Draw every label's cells on axes side by side, which have titles; `_named` writes the labels at the lines."""
    # The object interface, not pyplot: no global state, no display needed.
    from matplotlib.figure import Figure

    grouped, known = by_label(cells), known or looks_of(cells)
    width = 4.6 if len(drawings) == 1 else 2.6 * len(drawings) + 1.2
    figure = Figure(figsize=(width, max(3.2, 0.15 * len(grouped))), layout="constrained")
    every = figure.subplots(1, len(drawings), squeeze=False, sharey=True)[0]
    for label, alike in grouped.items():
        style = {**known[label].line, "markersize": 3.5, "linewidth": 1.5, "gid": series_name(label)}
        for axes, draw in zip(every, drawings.values(), strict=True):
            before = len(axes.lines)
            name = draw(axes, alike, style)
            axes.lines[before].set_label(plot(name))
    for axes, title in zip(every, drawings, strict=True):
        axes.set_title(plot(title))
        ink(axes)
    return figure


def _named(figure: Figure) -> Figure:
    """Write each line's label beside its end, on the last axes, with room between them; axes have their limits."""
    axes: Any = figure.axes[-1]
    lines = [line for line in axes.lines if line.get_gid() and len(line.get_xdata())]
    into = axes.transData + axes.transAxes.inverted()
    axes.set_xlim(*axes.get_xlim())
    axes.set_ylim(*axes.get_ylim())
    ends = [into.transform((line.get_xdata()[-1], line.get_ydata()[-1])) for line in lines]
    gap = 1.25 * SMALL / (72 * figure.get_figheight() * 0.8)
    for line, (x, y), place in zip(lines, ends, spread([y for _, y in ends], gap), strict=True):
        if not np.isfinite(y):
            continue
        look = {"color": line.get_color(), "gid": line.get_gid()}
        leader = axes.plot([x, 1.03], [y, place], transform=axes.transAxes, clip_on=False, linewidth=0.5, **look)[0]
        leader.set_in_layout(False)
        axes.text(1.04, place, str(line.get_label()), transform=axes.transAxes, va="center", fontsize=SMALL, **look)
    return figure


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Return places near the wanted ones, in their order and at least `gap` apart, within 0 and 1 where they fit.

    >>> [round(x, 2) for x in spread([0.5, 0.5, 0.98], 0.1)]
    [0.5, 0.6, 0.98]
    """
    order = np.argsort(wanted, kind="stable")
    places = np.nan_to_num(np.asarray(wanted, dtype=np.float64)[order])
    for n in range(1, len(places)):
        places[n] = max(places[n], places[n - 1] + gap)
    for n in reversed(range(len(places))):
        places[n] = min(places[n], 1.0 if n == len(places) - 1 else places[n + 1] - gap)
    found = np.empty_like(places)
    found[order] = places
    return found.tolist()


def _beside(axes: Any, points: Mapping[str, tuple[float, float]], known: Looks) -> None:
    """Write labels beside points, each where it covers the least of other labels, points and the outside."""
    figure = axes.figure
    figure.draw_without_rendering()
    frame, pixels = axes.get_window_extent(), figure.dpi / 72
    centres = {label: axes.transData.transform(point) for label, point in points.items()}
    taken = [(x - 5 * pixels, y - 5 * pixels, x + 5 * pixels, y + 5 * pixels) for x, y in centres.values()]
    for label, (x, y) in centres.items():
        text = short(label)
        width, height = 0.56 * SMALL * len(text) * pixels, 1.2 * SMALL * pixels
        sides = [(dx, dy) for dx in (1, -1, 0) for dy in (0, 1, -1, 2, -2, 3, -3) if dx or abs(dy) > 0]

        def box(side: tuple[int, int], x: float = x, y: float = y, w: float = width, h: float = height) -> Any:
            left = x + {1: 6 * pixels, -1: -6 * pixels - w, 0: -w / 2}[side[0]]
            middle = y + side[1] * h
            return left, middle - h / 2, left + w, middle + h / 2

        def covered(side: tuple[int, int], box: Any = box) -> float:
            mine = box(side)
            outside = max(0, frame.x0 - mine[0]) + max(0, mine[2] - frame.x1)
            outside += max(0, frame.y0 - mine[1]) + max(0, mine[3] - frame.y1)
            return sum(_overlap(mine, other) for other in taken) + 50 * outside + abs(side[1]) + 0.1 * (side[0] != 1)

        left, bottom, right, top = box(min(sides, key=covered))
        taken.append((left, bottom, right, top))
        place = axes.transAxes.inverted().transform((left, (bottom + top) / 2))
        look = {"color": known[label].colour, "gid": series_name(label), "fontsize": SMALL, "va": "center"}
        axes.text(*place, plot(text), transform=axes.transAxes, **look).set_in_layout(False)


def _overlap(one: Any, other: Any) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, width) * max(0.0, height)


def short(label: str) -> str:
    """Cut a label to what a picture has room for."""
    return label if len(label) <= LONGEST else f"{label[: LONGEST - 1]}…"


def ticks(count: int, most: int = 10) -> list[int]:
    """Number experiences from 1, at most so many of them."""
    return [*range(1, count + 1, max(1, -(-count // most)))]


def save(figure: Figure, path: Path) -> None:
    """Write a PNG on white."""
    with files.written(path, InputError) as place, quiet():
        figure.savefig(place, dpi=150, facecolor="white", format="png")
