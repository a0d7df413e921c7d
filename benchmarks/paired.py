"""How far a method is ahead of its best rival, paired over seeds, from finished run folders.

    python benchmarks/paired.py runs/against_rivals/* --ours strata --rivals ridge ranpac ease

On each stream (a run folder) the rival is the one with the best mean over the seeds, for average and for final accuracy
each on its own: the choice is the rivals' advantage, and ours is one method throughout. Intervals are Student's, of
95 %; the last line is of all pairs of all streams together. A seed draws the order of the classes and all training. The
test images are the same in every seed: what they leave open is not in the interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import arguments
import numpy as np
from measuring import table
from scipy import stats

from continual.experiments.run_folder import collect
from continual.metrics import METRICS
from continual.metrics.cell import Cell

FIGURES = ("average", "final")
HEADINGS = ["stream", *[h for name in ("Ā", "final") for h in (f"best rival, {name}", "rival", "ours", "gain")]]

Accuracies = Mapping[str, Mapping[int, float]]  #: method -> seed -> percent


def accuracies(cells: Sequence[Cell], figure: str) -> dict[str, dict[int, float]]:
    """Return a figure of every cell, in percent, by label and seed."""
    found: dict[str, dict[int, float]] = {}
    for cell in cells:
        value = METRICS.get(figure).figure(cell)
        assert value is not None
        found.setdefault(cell.label, {})[cell.seed] = 100 * value
    return found


def best_rival(found: Accuracies, ours: str, rivals: Sequence[str]) -> tuple[str, np.ndarray, np.ndarray]:
    """Return the rival of the best mean, its values and ours on the same seeds, (n,) each.

    Raises ValueError where a method lacks a seed that another has: a best of fewer seeds would be no fair one.
    """
    seeds = sorted(found[ours])
    for name in (ours, *rivals):
        if sorted(found.get(name, {})) != seeds:
            raise ValueError(f"{name} has the seeds {sorted(found.get(name, {}))}, {ours} has {seeds}: run them all")
    values = {name: np.array([found[name][seed] for seed in seeds]) for name in (ours, *rivals)}
    best = max(rivals, key=lambda name: values[name].mean())
    return best, values[best], values[ours]


def interval(differences: np.ndarray) -> str:
    """Return mean and 95 % interval of differences (n,), n > 1.

    >>> interval(np.array([1.0, 2.0, 3.0]))
    '+2.0 (-0.5 to +4.5)'
    """
    mean, error = differences.mean(), stats.sem(differences)
    reach = stats.t.ppf(0.975, len(differences) - 1) * error
    return f"{mean:+.1f} ({mean - reach:+.1f} to {mean + reach:+.1f})"


def lines(runs: Mapping[str, Sequence[Cell]], ours: str, rivals: Sequence[str]) -> list[list[str]]:
    """Return the table's lines: a stream each, and all pairs together."""
    body = [[title] for title in runs]
    pooled: dict[str, list[np.ndarray]] = {figure: [] for figure in FIGURES}
    for line, cells in zip(body, runs.values(), strict=True):
        for figure in FIGURES:
            name, theirs, mine = best_rival(accuracies(cells, figure), ours, rivals)
            pooled[figure].append(mine - theirs)
            line += [name, f"{theirs.mean():.1f}", f"{mine.mean():.1f}", interval(mine - theirs)]
    if len(runs) > 1:
        together = ["all"]
        for parts in pooled.values():
            together += ["", "", "", interval(np.concatenate(parts))]
        body.append(together)
    return body


def main() -> None:
    """Print the table as Markdown."""
    parser = arguments.parser(__doc__)
    parser.add_argument("runs", type=Path, nargs="+", help="run folders, as `equimos run` makes them")
    parser.add_argument("--ours", default="strata")
    parser.add_argument("--rivals", nargs="+", default=["ridge", "ranpac", "ease"])
    asked = parser.parse_args()
    runs = [collect(run) for run in asked.runs]
    titles = [run.config["title"] for run in runs]
    names = [
        title if titles.count(title) == 1 else f"{title}, {run.path.name}"
        for title, run in zip(titles, runs, strict=True)
    ]
    found = {name: run.cells for name, run in zip(names, runs, strict=True)}
    print(table(HEADINGS, lines(found, asked.ours, asked.rivals)))


if __name__ == "__main__":
    main()
