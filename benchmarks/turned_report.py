"""The tables and the picture of `turned_images.py`, from its files of figures, one per group and seed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from continual.console import add_row, console, new_table
from equivariant.style import AFTER, BEFORE

Rows = dict[str, list[dict[str, Any]]]  #: the figures of every row, one per seed

HEADINGS = [
    "",
    "upright [%]",
    "transformed [%]",
    "same answer over the orbit [%]",
    "orbit flips [%]",
    "upright view found [%]",
    "invariance error",
    "passes",
    "time",
]


def report(out: Path, groups: Sequence[str], seeds: Sequence[int]) -> None:
    """Write results.md and upright_turned.png into the folder of the figures, and show the tables."""
    found: dict[str, Rows] = {name: {} for name in groups}
    for name, rows in found.items():
        for seed in seeds:
            for row, figures in json.loads((out / f"{name}-{seed}.json").read_text()).items():
                rows.setdefault(row, []).append(figures)
        table = new_table(*HEADINGS)
        table.title = name
        for line in lines(rows):
            add_row(table, *line)
        console().print(table)
    text = "\n".join(f"## {name}\n\n{markdown(rows)}" for name, rows in found.items())
    (out / "results.md").write_text(text, encoding="utf-8")
    picture(found, out / "upright_turned.png")


def lines(rows: Rows) -> list[list[str]]:
    """Return the table's lines: mean ± standard deviation over seeds, the largest error, mean passes, time."""
    body = []
    for row, runs in rows.items():
        cells = [row.replace("turned", "transformed")]
        for key in ("upright", "turned", "consistency", "flips", "found"):
            if runs[0][key] is None:
                cells.append("–")
                continue
            values = 100 * np.array([run[key] for run in runs])
            spread = f" ± {values.std(ddof=1):.1f}" if len(values) > 1 else ""
            cells.append(f"{values.mean():.1f}{spread}")
        cells.append(f"{max(run['error'] for run in runs):.0e}")
        cells += [
            f"{np.mean([run['passes'] for run in runs]):.2f}",
            f"{np.median([run['time'] for run in runs if 'time' in run]):.2f}",
        ]
        body.append(cells)
    return body


def markdown(rows: Rows) -> str:
    rule = ["---", *["---:"] * (len(HEADINGS) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in (HEADINGS, rule, *lines(rows))) + "\n"


def picture(found: dict[str, Rows], path: Path) -> None:
    """Draw accuracy upright and transformed, mean and deviation over seeds, a panel per group; plain's dashed."""
    from matplotlib.figure import Figure

    most = max(map(len, found.values()))
    figure = Figure(figsize=(3 + 3.2 * len(found), 1.2 + 0.27 * most), layout="constrained")
    panels = figure.subplots(1, len(found), sharex=True, squeeze=False)[0]
    for axes, (name, rows) in zip(panels, found.items(), strict=True):
        for key, marker, colour in (("upright", "o", BEFORE), ("turned", "x", AFTER)):
            values = 100 * np.array([[run[key] for run in runs] for runs in rows.values()])
            spread = values.std(1, ddof=1) if values.shape[1] > 1 else None
            label = key.replace("turned", "transformed")
            axes.errorbar(values.mean(1), range(len(rows)), xerr=spread, fmt=marker, color=colour, label=label, lw=0.8)
            axes.axvline(values[0].mean(), color=colour, linestyle="--", linewidth=0.8)
        axes.set_yticks(range(len(rows)), [line[0] for line in lines(rows)] if axes is panels[0] else [""] * len(rows))
        axes.set(title=name, xlabel="accuracy [%]", ylim=(most - 0.5, -0.5))
        axes.spines[["top", "right"]].set_visible(False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=130)
