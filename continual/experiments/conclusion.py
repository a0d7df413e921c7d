"""What a results table says, in two or three sentences: which method wins, by how much, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from continual.console import count, named
from continual.experiments.results import Row, by_label, keeps_images, rows
from continual.metrics.accuracy import average, final, forgetting
from continual.metrics.base import Metric
from continual.metrics.cell import Cell
from continual.metrics.cost import learning_seconds

LEVEL = 0.95  #: of the interval


def paired_interval(differences: Sequence[float]) -> tuple[float, float] | None:
    """Return Student's interval of the mean of differences, one per seed; None for fewer than two.

    >>> [round(x, 3) for x in paired_interval([1.0, 2.0, 3.0])]
    [-0.484, 4.484]
    """
    from scipy import stats

    if len(differences) < 2:
        return None
    values = np.asarray(differences, dtype=np.float64)
    half = float(stats.t.ppf(0.5 + LEVEL / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return float(values.mean()) - half, float(values.mean()) + half


def conclusion(cells: Sequence[Cell]) -> list[str]:
    """Return sentences on the average accuracy Ā; the first names the method that wins.

    Methods that keep all images are named as a bound. Differences are between the same seeds, so that what a seed does
    to all methods (its order of classes) cancels.
    """
    table = rows(cells)
    ranked = sorted((row for row in table if not keeps_images(row.method)), key=lambda row: -_of(row, average))
    if not ranked:
        return []
    said = [_winner(ranked, by_label(cells))]
    if len(ranked) > 1:
        ends = [f"{named(row.label)} {text}" for row in ranked[:2] if (text := _ends(row))]
        said += [f"At the end: {'; '.join(ends)}."]
    if bounds := [row for row in table if keeps_images(row.method)]:
        known = ", ".join(f"{named(row.label)} {_percent(row, average)}" for row in bounds)
        said.append(f"With all images kept, as a bound: Ā of {known}.")
    return said


def _winner(ranked: Sequence[Row], cells: dict[str, list[Cell]]) -> str:
    best = ranked[0]
    if len(ranked) == 1:
        return f"{named(best.label)}: average accuracy Ā {_percent(best, average)}."
    second = ranked[1]
    ours, theirs = ({cell.seed: _figure(cell) for cell in cells[row.label]} for row in (best, second))
    shared = sorted(ours.keys() & theirs.keys())
    differences = [100 * (ours[seed] - theirs[seed]) for seed in shared]
    # Where they have other seeds the means alone can be compared.
    ahead = float(np.mean(differences)) if shared else 100 * (_of(best, average) - _of(second, average))
    interval = paired_interval(differences)
    if interval is None:
        sure = "one seed, so how much this varies is not known" if len(shared) == 1 else "no seed in common"
    else:
        sure = f"95 % interval {interval[0]:.1f} to {interval[1]:.1f}, paired over {count(len(shared), 'seed')}"
    decided = interval is None or interval[0] > 0
    verb = (
        "has the highest average accuracy"
        if decided
        else "has the highest average accuracy, but these seeds do not decide"
    )
    above = f"{ahead:.1f} points above {named(second.label)} ({sure})"
    return f"{named(best.label)} {verb}: Ā {_percent(best, average)}, {above}."


def _ends(row: Row) -> str:
    seconds = row.mean[learning_seconds.name]
    parts = [f"{_percent(row, final)} right"]
    if row.mean[forgetting.name] is not None:
        parts.append(f"{_percent(row, forgetting)} forgotten")
    if seconds is not None:
        parts.append(f"{duration(seconds)} to learn")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Write a time.

    >>> duration(0.42), duration(42), duration(80), duration(7320)
    ('0.42 s', '42 s', '1 min 20 s', '2 h 2 min')
    """
    if seconds < 60:
        return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def _of(row: Row, metric: Metric) -> float:
    value = row.mean[metric.name]
    return float("-inf") if value is None else value


def _figure(cell: Cell) -> float:
    value = average.figure(cell)
    assert value is not None
    return value


def _percent(row: Row, metric: Metric) -> str:
    return f"{100 * _of(row, metric):.1f} %"
