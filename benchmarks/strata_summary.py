"""Tables and a waterfall of what `strata.py` recorded.

python benchmarks/strata_summary.py results.json --size 10 --picture waterfall.png
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import arguments
import numpy as np

#: the rows that each add one thing to the one before
STEPS = ("ridge", "strength by width", "+ four blocks", "+ patch tokens (one pass)", "+ mirror image (strata)")


def figures(records: list[dict[str, Any]], row: str) -> np.ndarray:
    """Return (seeds, 3): average accuracy, final accuracy, and that with the experience known, in percent."""
    chosen = sorted((r for r in records if r["row"] == row), key=lambda r: r["seed"])
    return 100 * np.array([(np.mean(r["curve"]), r["curve"][-1], r["experience told"]) for r in chosen])


def table(records: list[dict[str, Any]]) -> str:
    """Return a Markdown table, mean and deviation over seeds; gains over the first row are paired."""
    lines = ["| row | D' | Ā [%] | final [%] | gain in Ā | gain in final | final, experience known [%] |"]
    lines.append("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    rows = list(dict.fromkeys(r["row"] for r in records))
    first = figures(records, rows[0])
    for row in rows:
        values = figures(records, row)
        width = next(r["width"] for r in records if r["row"] == row)
        cells = [f"{m:.1f} ± {s:.1f}" for m, s in zip(values.mean(0), values.std(0, ddof=1), strict=True)]
        gains = values - first
        more = [f"{m:+.1f} ± {s:.1f}" for m, s in zip(gains.mean(0), gains.std(0, ddof=1), strict=True)][:2]
        more = ["", ""] if row == rows[0] else more
        name = row.replace("strength", "penalty")
        lines.append(f"| {name} | {width} | {cells[0]} | {cells[1]} | {more[0]} | {more[1]} | {cells[2]} |")
    return "\n".join(lines)


def picture(records: list[dict[str, Any]], path: Path, title: str) -> None:
    """Draw the final accuracy step by step, and what remains where the right experience is known."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    finals = [float(figures(records, row)[:, 1].mean()) for row in STEPS]
    told = float(figures(records, STEPS[-1])[:, 2].mean())
    edges, names = [0.0, *finals, told], [*STEPS, "if the experience were known"]
    figure, axes = plt.subplots(figsize=(7, 3), layout="constrained")
    for place, (low, high) in enumerate(pairwise(edges)):
        colour = (
            "tab:gray"
            if place == 0
            else "lightgray"
            if place == len(STEPS)
            else "tab:blue"
            if high > low
            else "tab:red"
        )
        axes.barh(place, high - low, left=low, color=colour)
        axes.text(max(low, high) + 0.4, place, f"{high:.1f}", va="center")
    axes.set_yticks(range(len(names)), [name.replace("strength", "penalty") for name in names])
    axes.invert_yaxis()
    axes.set_xlim(max(0, finals[0] - 15), told + 5)
    axes.set_xlabel("final accuracy [%]")
    axes.set_title(title, fontsize=10)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Print a table per stream, and draw the waterfall of the one with most images per class that has all steps."""
    parser = arguments.parser(__doc__, size={"default": 10, "help": "classes per experience"}, picture={"type": Path})
    parser.add_argument("results", type=Path)
    asked = parser.parse_args()
    records = [r for r in json.loads(asked.results.read_text()) if r["size"] == asked.size]
    for per_class in sorted({r["per_class"] for r in records}):
        own = [r for r in records if r["per_class"] == per_class]
        print(f"\n{asked.size} classes per experience, {per_class} images per class, {own[0]['half']}\n\n{table(own)}")
        if asked.picture is not None and {r["row"] for r in own}.issuperset(STEPS):
            picture(own, asked.picture, f"{asked.size} classes per experience, {per_class} training images per class")


if __name__ == "__main__":
    main()
