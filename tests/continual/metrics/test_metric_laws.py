"""What holds for every metric, whoever wrote it: drawn from the registry, on simulated answers."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from math import isfinite
from pathlib import Path
from typing import Any

import pytest

from continual.errors import InputError
from continual.metrics import METRICS, measures
from continual.metrics.accuracy import accuracy
from continual.metrics.base import Metric, Series, metric
from continual.metrics.cell import Cell
from tests.support.simulated_runs import IMAGES, made_up, run_folder

GROUPS = ("C4", "D4")
CELLS = [
    *[made_up("mos", seed, experiences, groups=GROUPS) for experiences in (1, 2, 5) for seed in range(3)],
    *[made_up("plain", 1, experiences, stacks=False) for experiences in (1, 2)],
    *[made_up("extreme", 1, 3, groups=GROUPS, right=right) for right in (0, 1)],
]

every = pytest.mark.parametrize("one", measures(CELLS), ids=lambda m: m.name)


@every
def test_values_are_finite_or_none_and_in_range(one: Metric) -> None:
    low, high = one.range
    for cell in CELLS:
        found = one(cell)
        assert len(found) == len(cell.evaluations)
        for value in (*found, one.figure(cell)):
            assert value is None or (isfinite(value) and low - 1e-9 <= value <= high + 1e-9), (cell.label, found)
    assert any(one.figure(cell) is not None for cell in CELLS) or one.name == "forward_transfer"


def ideal(cell: Cell, *, forgets: bool = False) -> Cell:
    """The cell with right and certain answers to all images, later experiences' included, for next to no cost.

    One that `forgets` answers old and unseen images wrongly, transformed images as well, and takes longer.
    """
    size, evaluations = len(cell.truth), []
    for number, evaluation in enumerate(cell.evaluations):
        new = range(IMAGES * number, IMAGES * (number + 1))
        right = [not forgets or place in new for place in range(size)]
        stacks = [y // 2 if fine else (y // 2 + 1) % (number + 1) for y, fine in zip(cell.truth, right, strict=True)]
        answers = [y if fine else (y + 1) % size for y, fine in zip(cell.truth, right, strict=True)]
        moved = [(y + 1) % size for y in cell.truth] if forgets else answers
        cost = {name: int(forgets) for name, value in vars(evaluation).items() if isinstance(value, int | float)}
        lists = {"answers": answers, "stack": stacks, "first_stack": stacks, "refinements": [int(forgets)] * size}
        same = {"confidence": [1.0] * size, "transformed": dict.fromkeys(cell.groups, moved)}
        evaluations.append(replace(evaluation, **cost, **lists, **same))
    return replace(cell, evaluations=tuple(evaluations))


@every
def test_a_perfect_cell_is_at_least_as_good_as_one_that_forgets(one: Metric) -> None:
    for experiences in (2, 5):
        cell = made_up("mos", 1, experiences, groups=GROUPS)
        best, worse = one.figure(ideal(cell)), one.figure(ideal(cell, forgets=True))
        if one.higher_is_better is not None and best is not None and worse is not None:
            assert best >= worse if one.higher_is_better else best <= worse


@every
def test_a_cell_read_back_from_json_gives_the_same(one: Metric) -> None:
    for cell in CELLS:
        assert one(Cell.from_json(json.loads(json.dumps(cell.to_json())))) == one(cell)


@every
def test_what_is_shown_is_said(one: Metric) -> None:
    assert 10 < len(one.summary) < 200
    assert "{" not in one.heading


def test_headings_are_unique() -> None:
    headings = [one.heading for one in measures(CELLS)]
    assert len(headings) == len(set(headings))


def test_columns_of_transformed_images_come_group_by_group_after_the_accuracies() -> None:
    names = [one.name for one in measures(CELLS) if one.table == "main"]
    under = [f"{name} {group}" for group in GROUPS for name in ("turned", "consistency", "orbit_flips")]
    assert names[:9] == ["average", "final", *under, "forgetting"]


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the registry forget afterwards what a test adds."""
    METRICS.all()
    monkeypatch.setattr(METRICS, "_added", {})


@pytest.mark.slow
@pytest.mark.usefixtures("known")
def test_a_metric_from_outside_is_reported_on_a_run_from_before(equimos: Callable[..., Any], tmp_path: Path) -> None:
    run = run_folder(tmp_path / "run", [made_up("mos", seed) for seed in (1, 2)])
    assert equimos("report", run).exit_code == 0
    assert "certain and wrong" not in (run / "report" / "table.md").read_text()

    @METRICS.add
    @metric(heading="certain and wrong [%]", higher_is_better=False, table="main", range=(0, 1), curve="Sure errors.")
    def certain_errors(cell: Cell) -> Series:
        """The share of images answered wrongly with a confidence above 0.9."""
        wrong = [answers != cell.truth[: len(answers)] for answers in cell.arrays("answers")]
        return [float((w & (p > 0.9)).mean()) for w, p in zip(wrong, cell.arrays("confidence"), strict=True)]

    assert equimos("report", run).exit_code == 0
    report = run / "report"
    assert "certain and wrong [%] |" in (report / "table.md").read_text().splitlines()[2]
    assert "answered wrongly with a confidence above 0.9; lower is better" in (report / "report.html").read_text()
    assert (report / "pictures" / "certain_errors.png").is_file()
    for name in ("table.csv", "experiences.csv"):
        lines = [*csv.DictReader((report / name).read_text().splitlines())]
        assert lines
        assert all(0 <= float(line["certain_errors"]) < 1 for line in lines)


@pytest.mark.usefixtures("known")
def test_two_metrics_of_one_name_are_refused() -> None:
    def forgetting(cell: Cell) -> Series:
        """Another one."""
        return [row[0] for row in accuracy(cell)]

    with pytest.raises(InputError, match="metric 'forgetting' already, continual.metrics.accuracy.forgetting"):
        METRICS.add(metric(heading="x", higher_is_better=None)(forgetting))


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("error", [ValueError, TypeError, ZeroDivisionError])
def test_a_metric_from_outside_that_fails_is_named_and_no_file_is_blamed(
    equimos: Callable[..., Any], tmp_path: Path, error: type[Exception]
) -> None:
    @METRICS.add
    @metric(heading="broken", higher_is_better=None, order=0)
    def broken(cell: Cell) -> Series:
        """Nothing."""
        raise error("no such thing")

    run = run_folder(tmp_path / "run", [made_up("mos", 1)])
    result = equimos("report", run)
    assert f"the metric 'broken' of {__name__} fails on 'mos' with seed 1" in result.stderr
    assert f"({error.__name__}: no such thing): fix it, or take it out" in result.stderr
    assert (result.exit_code, "damaged" in result.stderr) == (2, False)
    cell = json.loads((run / "cells" / "0.json").read_text())[0]
    cell["evaluations"][0]["stack"] = [0]
    (run / "cells" / "0.json").write_text(json.dumps([cell]))
    assert "0.json is damaged" in equimos("report", run).stderr, "though that metric would be asked first"
