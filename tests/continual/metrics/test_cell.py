"""Cells: what they keep, and those of the earlier format, which kept derived figures."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from continual.experiments.run_folder import collect
from continual.metrics import series
from continual.metrics.accuracy import accuracy
from continual.metrics.cell import Cell, NotRecorded, derived
from tests.conftest import ROOT
from tests.support.simulated_runs import made_up

#: a run folder of version 0.1, and what was reported of it then
EARLIER = ROOT / "tests" / "support" / "run_folders" / "derived_figures"


def test_a_run_folder_of_the_earlier_format_is_reported_on_as_then(equimos: Callable[..., Any], tmp_path: Path) -> None:
    result = equimos("report", EARLIER, "--out", tmp_path / "report")
    assert result.exit_code == 0, result.stderr
    for name in ("table.csv", "experiences.csv"):
        then, now = (
            [*csv.DictReader((folder / name).read_text().splitlines())] for folder in (EARLIER, tmp_path / "report")
        )
        assert [{key: line[key] for key in then[0]} for line in now] == then
    pictures = {path.stem for path in (tmp_path / "report" / "pictures").iterdir()}
    assert {"turned", "consistency", "reliability", "matrices", "retrieval", "negative_flips"} <= pictures


def test_cells_of_the_earlier_format_have_no_raw_answers() -> None:
    for cell in collect(EARLIER).cells:
        with pytest.raises(NotRecorded, match="no answers"):
            cell.arrays("answers")
        assert Cell.from_json(json.loads(json.dumps(cell.to_json()))) == cell


def test_the_oldest_cells_did_not_note_passes_waiting_and_transformed_images() -> None:
    (values, *_) = json.loads((EARLIER / "cells" / "mos-1.json").read_text())
    del values["passes"], values["turned"]
    values["waiting"] = values["waiting"][1:]
    cell = Cell.from_json(values)
    found = series(cell)
    assert (found["passes"], found["waiting"]) == ([None] * 3, [None, *values["waiting"]])
    assert not any(name.startswith("turned") for name in found)


def test_what_is_derived_is_computed_once_and_not_where_it_is_recorded() -> None:
    asked = []

    @derived("answered")
    def answered(cell: Cell) -> int:
        asked.append(cell.label)
        return sum(map(len, cell.each("answers")))

    cell = made_up("mos", 1)
    assert [answered(cell), answered(cell)] == [60, 60]
    assert asked == ["mos"]
    recorded = Cell.from_json({**cell.to_json(), "recorded": {"answered": 3}})
    assert (answered(recorded), asked) == (3, ["mos"])


def test_confidences_keep_every_bit() -> None:
    exact = [np.float32(1 / 3), np.float32(0.1), np.nextafter(np.float32(1), np.float32(2))]
    cell = made_up("mos", 1)
    cell = replace(cell, evaluations=(replace(cell.evaluations[0], confidence=[float(x) for x in exact]),))
    again = Cell.from_json(json.loads(json.dumps(cell.to_json())))
    assert [np.float32(x) for x in again.arrays("confidence")[0]] == exact


def test_accuracies_are_of_each_experience() -> None:
    rows = accuracy(made_up("mos", 1))
    assert [len(row) for row in rows] == [1, 2, 3]
