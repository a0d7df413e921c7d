"""Matrices of results as small multiples with one colour bar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from continual.console import named
from continual.escaping import plot
from continual.experiments.pictures import SMALL, short, ticks
from continual.experiments.results import by_label
from continual.metrics.accuracy import matrix
from continual.metrics.cell import Cell
from continual.metrics.retrieval import choices, first_choices
from equivariant.style import INK, ink

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def matrices(cells: Sequence[Cell]) -> Figure:
    """Draw the mean accuracy matrix of each label: rows learned so far, columns the experience tested."""
    maps = [
        (label, 100 * np.mean([matrix(cell) for cell in alike], axis=0)) for label, alike in by_label(cells).items()
    ]
    return _draw(maps, "tested on experience", "experiences learned", min(3, len(maps)))


def retrieval(cells: Sequence[Cell]) -> Figure:
    """Draw, for each label, how often adapters were chosen for images of each experience, at first and refined."""
    maps = []
    for label, alike in by_label(cells).items():
        for when, tables in (("at first", first_choices), ("refined", choices)):
            counts = np.sum([tables(cell)[-1] for cell in alike], axis=0)
            maps.append((f"{named(label)}, {when}", 100 * counts / np.maximum(counts.sum(1, keepdims=True), 1)))
    return _draw(maps, "chosen adapter", "right adapter", 2)


def _draw(maps: Sequence[tuple[str, Any]], across: str, down: str, columns: int) -> Figure:
    """Draw heat maps of percent as small multiples with one colour bar."""
    from matplotlib.figure import Figure

    lines = -(-len(maps) // columns)
    figure = Figure(figsize=(4.6, 0.7 + 3.8 * lines / columns), layout="constrained")
    every = figure.subplots(lines, columns, squeeze=False, sharex=True, sharey=True)
    for axes, (title, values) in zip(every.flat, maps, strict=False):
        size, numbers = len(values) + 0.5, ticks(len(values), most=10 // columns)
        place = {"interpolation": "none", "extent": (0.5, size, size, 0.5)}
        image = axes.imshow(values, cmap="viridis", vmin=0, vmax=100, **place)
        axes.set(xticks=numbers, yticks=numbers)
        axes.set_title(plot(short(title)))
        ink(axes, grid=False)
        axes.title.set_fontsize(10 if columns == 1 else SMALL)
        if len(values) * columns <= 12:
            for (row, column), value in np.ndenumerate(values):
                if not np.isnan(value):
                    colour = "black" if value > 55 else "white"
                    axes.text(column + 1, row + 1, f"{value:.0f}", ha="center", va="center", color=colour, fontsize=7)
    for axes in every.flat[len(maps) :]:
        axes.set_axis_off()
    figure.supxlabel(across, color=INK, fontsize=9)
    figure.supylabel(down, color=INK, fontsize=9)
    bar = figure.colorbar(image, ax=every, shrink=0.8 if lines == 1 else 0.5, label="[%]")
    ink(bar.ax, grid=False)
    return figure
