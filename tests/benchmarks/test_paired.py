"""A method against its best rival, paired over seeds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from paired import accuracies, best_rival, interval, lines

from continual.experiments.config import load_runs
from continual.metrics.cell import Cell, Evaluation
from tests.conftest import ROOT


def cell(label: str, seed: int, accuracy: list[list[float]]) -> Cell:
    """A cell of two experiences."""
    evaluations = (Evaluation(learning_seconds=1.0, evaluation_seconds=1.0, memory=1),) * 2
    return Cell(label, label, seed, {}, "", [10, 10], [2, 2], evaluations=evaluations, recorded={"accuracy": accuracy})


CELLS = [
    cell("ours", 1, [[0.9], [0.7, 0.9]]),
    cell("ours", 2, [[0.9], [0.8, 0.8]]),
    cell("steady", 1, [[0.8], [0.7, 0.7]]),
    cell("steady", 2, [[0.8], [0.7, 0.7]]),
    cell("early", 1, [[1.0], [0.6, 0.6]]),
    cell("early", 2, [[1.0], [0.6, 0.6]]),
]


def test_figures_are_in_percent_by_seed() -> None:
    assert accuracies(CELLS, "average")["ours"] == pytest.approx({1: 85, 2: 85})
    assert accuracies(CELLS, "final")["early"] == pytest.approx({1: 60, 2: 60})


def test_the_best_rival_is_the_figure_s_own() -> None:
    # "early" is ahead on the way, "steady" at the end
    for figure, name, theirs in (("average", "early", 80), ("final", "steady", 70)):
        best, values, mine = best_rival(accuracies(CELLS, figure), "ours", ["steady", "early"])
        assert best == name
        assert values == pytest.approx([theirs] * 2)
        assert mine == pytest.approx([85, 85] if figure == "average" else [80, 80])


def test_a_missing_seed_is_refused() -> None:
    with pytest.raises(ValueError, match=r"early has the seeds \[1\], ours has \[1, 2\]"):
        best_rival(accuracies(CELLS[:-1], "final"), "ours", ["steady", "early"])


def test_an_interval_is_student_s() -> None:
    # t(0.975, 2) = 4.3027, standard error 1 / sqrt(3)
    assert interval(np.array([3.0, 4.0, 5.0])) == "+4.0 (+1.5 to +6.5)"


def test_all_pairs_together() -> None:
    better = [cell("ours", seed, [[1.0], [0.9, 0.9]]) for seed in (1, 2)]
    one, two, together = lines({"one": CELLS, "two": [*better, *CELLS[2:]]}, "ours", ["steady", "early"])
    assert one[:5] == ["one", "early", "80.0", "85.0", "+5.0 (+5.0 to +5.0)"]
    assert two[5:] == ["steady", "70.0", "90.0", "+20.0 (+20.0 to +20.0)"]
    # gains of 10, 10, 20 and 20: t(0.975, 3) = 3.1824, standard error 5 / sqrt(3)
    assert together == ["all", "", "", "", "+10.0 (+0.8 to +19.2)", "", "", "", "+15.0 (+5.8 to +24.2)"]


@pytest.mark.shared
def test_the_config_is_of_the_classes_that_nothing_was_chosen_on(shared: Path) -> None:
    names = sorted(p.name for p in (shared / "data" / "tiny_imagenet_100" / "train").iterdir())
    half = [names[i] for i in np.random.RandomState(0).permutation(100)[50:]]
    runs = load_runs(ROOT / "configs" / "against_rivals.toml")
    streams = [run.stream.only for name, run in runs.items() if name.startswith("tiny")]
    assert streams == [sorted(half)] * 3
