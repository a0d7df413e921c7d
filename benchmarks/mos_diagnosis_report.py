"""The tables and the waterfall of what `mos_diagnosis.py` measured.

python benchmarks/mos_diagnosis_report.py figures.json --picture waterfall.png
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import arguments
import numpy as np
from measuring import table

Records = list[dict[str, Any]]
Place = tuple[str, str]  #: what was trained, and what of it was measured

MOS: Place = ("mos", "aligned: as it is")

#: what is shown after every experience
BY_EXPERIENCE: dict[str, Place] = {
    "MOS": MOS,
    "right adapter at first": ("mos", "aligned: right stack at first"),
    "right adapter after refinement": ("mos", "aligned: right stack"),
    "right adapter known": ("mos", "aligned: stack told"),
    "right experience known": ("mos", "aligned: experience told"),
    "prototypes under adapter 1": ("mos", "prototypes"),
    "ridge on frozen features": ("mos", "ridge on frozen features"),
    **{f"ridge on adapter {k}, all classes": ("mos", f"ridge on stack {k}") for k in range(1, 6)},
    "ridge on each class's own adapter": ("mos", "ridge: stack told"),
}

#: what is compared with MOS
CHANGES: dict[str, Place] = {
    "head on true features instead of Gaussians": ("mos", "true features: as it is"),
    "ridge as the head": ("mos", "ridge: as it is"),
    "aligned from the first experience on": ("mos", "aligned from the first: as it is"),
    "the same, on true features": ("mos", "true features from the first: as it is"),
    "not aligned": ("mos", "not aligned: as it is"),
    "without the ensemble": ("mos", "aligned: without ensemble"),
    "right adapter known": ("mos", "aligned: stack told"),
    "right experience known": ("mos", "aligned: experience told"),
    "no merging": ("no merging", "aligned: as it is"),
    "no merging, right adapter known": ("no merging", "aligned: stack told"),
    "no merging, ridge as the head": ("no merging", "ridge: as it is"),
    "2 epochs": ("2 epochs", "aligned: as it is"),
    "15 epochs": ("15 epochs", "aligned: as it is"),
    "15 epochs, aligned from the first": ("15 epochs", "aligned from the first: as it is"),
    "15 epochs, ridge as the head": ("15 epochs", "ridge: as it is"),
    "prototypes under adapter 1": ("mos", "prototypes"),
    "ridge on frozen features": ("mos", "ridge on frozen features"),
    "ridge on adapter 1": ("mos", "ridge on stack 1"),
    "ridge on the last adapter": ("mos", "ridge on stack 5"),
    "strata": ("strata", "as it is"),
    "joint adapter, its own head": ("joint", "not aligned: stack told"),
    "joint adapter, aligned head": ("joint", "aligned from the first: stack told"),
    "joint adapter, ridge": ("joint", "ridge: stack told"),
}

#: from the bound down to MOS, each changing one thing
STEPS: dict[str, Place] = {
    "one adapter trained on all classes, ridge": ("joint", "ridge: stack told"),
    "an adapter per experience, the right one known": ("mos", "ridge: stack told"),
    "head by gradient steps, not ridge": ("mos", "true features: stack told"),
    "on Gaussians, not on true features": ("mos", "aligned: stack told"),
    "adapter retrieved, not known": ("mos", "aligned: without ensemble"),
    "ensemble (MOS)": MOS,
}


def values(records: Records, place: Place, seeds: Sequence[int] | None = None) -> np.ndarray:
    """Return a measure in percent, (seeds, experiences), of the seeds that have it; nan where no adapter was there."""
    run, measure = place
    own = [r for r in records if r["run"] == run and (seeds is None or r["seed"] in seeds)]
    found, count = seeds_of(own, place), max((r["experience"] for r in own), default=0)
    filled = np.full((len(found), count), np.nan)
    for r in own:
        filled[found.index(r["seed"]), r["experience"] - 1] = 100 * r.get(measure, np.nan)
    return filled


def seeds_of(records: Records, place: Place) -> list[int]:
    """Return the seeds of what was trained."""
    return sorted({r["seed"] for r in records if r["run"] == place[0]})


def by_experience(records: Records) -> str:
    """Return a Markdown table of means over the seeds, a column per experience."""
    count = values(records, MOS).shape[1]
    body = []
    for name, place in BY_EXPERIENCE.items():
        means = values(records, place).mean(0)
        body.append([name, *["–" if np.isnan(v) else f"{v:.1f}" for v in means]])
    return table(["accuracy [%] after experience", *map(str, range(1, count + 1))], body)


def changes(records: Records) -> str:
    """Return a Markdown table: mean and deviation over the seeds, and the difference to MOS, paired."""
    whole = values(records, MOS)
    body = [["MOS", str(len(whole)), _spread(whole.mean(1)), "", _spread(whole[:, -1]), ""]]
    for name, place in CHANGES.items():
        seeds = seeds_of(records, place)
        found, mos = values(records, place), values(records, MOS, seeds)
        if not seeds:
            continue
        # What learned everything at once has no way there, and a later adapter no beginning: no average over it.
        average = ["–", "–"]
        if found.shape == mos.shape and not np.isnan(found).any():
            average = [_spread(found.mean(1)), _spread((found - mos).mean(1), "+")]
        final = [_spread(found[:, -1]), _spread(found[:, -1] - mos[:, -1], "+")]
        body.append([name, str(len(seeds)), *average, *final])
    return table(["", "seeds", "Ā [%]", "against MOS", "final [%]", "against MOS"], body)


def _spread(found: np.ndarray, sign: str = "") -> str:
    deviation = f" ± {found.std(ddof=1):.1f}" if len(found) > 1 else ""
    return f"{found.mean():{sign}.1f}{deviation}"


def waterfall(records: Records) -> dict[str, float]:
    """Return the mean final accuracy of each step, over the seeds that have all."""
    seeds = sorted(set.intersection(*[set(seeds_of(records, place)) for place in STEPS.values()]))
    return {name: float(values(records, place, seeds)[:, -1].mean()) for name, place in STEPS.items()}


def picture(steps: dict[str, float], path: Path, title: str) -> None:
    """Draw the steps from the bound down to MOS."""
    from matplotlib.figure import Figure

    names, heights = list(steps), list(steps.values())
    figure = Figure(figsize=(7.5, 3), layout="constrained")
    axes = figure.subplots()
    least = min(heights) - 5
    for place, height in enumerate(heights):
        whole = place in (0, len(heights) - 1)
        before = least if place == 0 else heights[place - 1]
        if whole:
            axes.barh(place, height - least, left=least, color="lightgray" if place == 0 else "tab:gray")
        if place:
            axes.barh(place, height - before, left=before, color="tab:red" if height < before else "tab:blue")
        change = f"{height:.1f}" + ("" if place == 0 else f" ({height - before:+.1f})")
        axes.text(max(height, before if place else height) + 0.4, place, change, va="center")
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set(xlim=(least, max(heights) + 9), xlabel="final accuracy [%]")
    axes.set_title(title, fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Print both tables, and draw the picture."""
    parser = arguments.parser(__doc__, picture={"type": Path})
    parser.add_argument("figures", type=Path)
    asked = parser.parse_args()
    records = json.loads(asked.figures.read_text())
    print(f"{by_experience(records)}\n{changes(records)}")
    if asked.picture is not None:
        picture(waterfall(records), asked.picture, "From one adapter trained on all classes down to MOS")


if __name__ == "__main__":
    main()
