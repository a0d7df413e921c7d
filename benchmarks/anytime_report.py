"""Tables and picture of accuracy against passes, from what `anytime.py` wrote.

python benchmarks/anytime_report.py benchmarks/results/anytime_*.json --picture docs/images/anytime.png
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

Rows = dict[str, Any]
SHOWN = ("1.2", "1.4", "1.6", "2.0", "2.5", "3.0", "4.0")


def values(seeds: dict[str, Rows], row: str, key: str, passes: str | None = None) -> np.ndarray:
    """Return a figure of a row, seed by seed; accuracies in percent."""
    found = [rows[row] if passes is None else rows[row][passes] for rows in seeds.values()]
    return np.array([one[key] for one in found]) * (1 if key == "passes" else 100)


def wrappers(seeds: dict[str, Rows]) -> list[str]:
    """Return a Markdown table of the rows without a choice of passes."""
    lines = ["| | upright [%] | transformed [%] | same answer [%] | passes |", "| --- | --: | --: | --: | --: |"]
    for row in next(iter(seeds.values())):
        if not row.startswith("any-time"):
            cells = [f"{values(seeds, row, key).mean():.1f}" for key in ("upright", "transformed", "same")]
            lines.append(f"| {row} | {' | '.join(cells)} | {values(seeds, row, 'passes').mean():.0f} |")
    return lines


def curves(seeds: dict[str, Rows]) -> list[str]:
    """Return a Markdown table of accuracies at passes that were measured, for each mean number asked for."""
    first = next(iter(seeds.values()))
    rows = [row for row in first if row.startswith("any-time")]
    asked = [passes for passes in SHOWN if passes in first[rows[0]]]
    lines = [f"| passes asked for | {' | '.join(asked)} |", f"| --- {'| --: ' * len(asked)}|"]
    for row in rows:
        cells = [
            f"{values(seeds, row, 'transformed', p).mean():.1f} at {values(seeds, row, 'passes', p).mean():.2f}"
            for p in asked
        ]
        lines.append(f"| {row} | {' | '.join(cells)} |")
    return lines


def draw(sets: dict[str, dict[str, Rows]], path: Path) -> None:
    """Draw the curves of every set, and the accuracy of plain and equitune as lines."""
    from matplotlib.figure import Figure

    from equivariant.style import COLOURS, FAINT, INK, ink

    figure = Figure(figsize=(3.6 * len(sets), 3.4), layout="constrained")
    panels = figure.subplots(1, len(sets), squeeze=False)[0]
    for axes, (name, seeds) in zip(panels, sets.items(), strict=True):
        first = next(iter(seeds.values()))
        for number, row in enumerate(row for row in first if row.startswith("any-time")):
            asked = list(first[row])
            x, y = ([values(seeds, row, key, p).mean() for p in asked] for key in ("passes", "transformed"))
            dash = "--" if "distilled" in row else "-"
            axes.plot(x, y, dash, marker="o", markersize=3, color=COLOURS[number // 2], label=row.partition(", ")[2])
        for row, key, text in (
            ("plain, upright head", "upright", "plain, upright"),
            ("plain, upright head", "transformed", "plain, transformed"),
        ):
            height = values(seeds, row, key).mean()
            axes.axhline(height, color=FAINT, linewidth=0.8, linestyle=":")
            axes.annotate(text, (4.5, height), ha="right", va="bottom", fontsize=7, color=INK)
        axes.set_xlim(1, 4.6)
        axes.set(title=name, xlabel="passes per image", ylabel="accuracy in every position [%]")
        ink(axes)
    panels[0].legend(frameon=False, fontsize=7, loc="center right")
    figure.savefig(path, dpi=130)


def main(
    figures: Annotated[list[Path], typer.Argument(help="What anytime.py wrote, anytime_SET.json.")],
    picture: Annotated[Path | None, typer.Option(help="Where the picture goes.")] = None,
) -> None:
    """Print the tables, and draw."""
    sets = {path.stem.removeprefix("anytime_").replace("_", " "): json.loads(path.read_text()) for path in figures}
    for name, seeds in sets.items():
        print(f"\n{name}, seeds {', '.join(seeds)}\n", *wrappers(seeds), "", *curves(seeds), sep="\n")
    if picture is not None:
        draw(sets, picture)


if __name__ == "__main__":
    typer.run(main)
