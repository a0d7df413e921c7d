"""The table of docs/no_up.md about learners' passes, from what `anytime_learners.py` wrote.

python benchmarks/anytime_learners_report.py benchmarks/results/learner_passes_*.json
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer


def mean(seeds: dict[str, Any], row: str, key: str) -> float:
    """Return the mean of a figure over the seeds."""
    return float(np.mean([rows[row][key] for rows in seeds.values()]))


def main(figures: Annotated[list[Path], typer.Argument(help="What anytime_learners.py wrote.")]) -> None:
    """Print a table."""
    sets = {path.stem.removeprefix("learner_passes_"): json.loads(path.read_text()) for path in figures}
    names = " | ".join(f"{name} [%] | passes | alarms [%]" for name in sets)
    print(f"| | {names} |\n| --- {'| --: ' * 3 * len(sets)}|")
    for row in next(iter(next(iter(sets.values())).values())):
        cells = [
            f"{100 * mean(seeds, row, 'upright'):.1f}{_moved(seeds, row)} | {mean(seeds, row, 'passes'):.2f} | "
            f"{100 * mean(seeds, row, 'alarms'):.1f}"
            for seeds in sets.values()
        ]
        print(f"| {row} | {' | '.join(cells)} |")
    print({name: [*seeds] for name, seeds in sets.items()})


def _moved(seeds: dict[str, Any], row: str) -> str:
    """Return the accuracy in every position, where it is another."""
    found = mean(seeds, row, "transformed")
    return "" if found == mean(seeds, row, "upright") else f", rotated {100 * found:.1f}"


if __name__ == "__main__":
    typer.run(main)
