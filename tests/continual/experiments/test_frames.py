"""`continual.read_runs`: results of runs as tidy tables of pandas, and the same as parquet."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import continual
from continual.errors import InputError
from continual.experiments.run_folder import collect
from continual.metrics.accuracy import final, seen_accuracy
from tests.support.simulated_runs import made_up, run_folder

pandas = pytest.importorskip("pandas")


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    cells = [made_up(label, seed, stacks=label == "mos") for label in ("mos", "simple_cil") for seed in (1, 2)]
    return [run_folder(tmp_path / "a", cells), run_folder(tmp_path / "b", [made_up("mos", 3)], title="Other")]


def test_a_line_is_a_method_with_a_seed(runs: list[Path]) -> None:
    table = continual.read_runs(*runs)
    assert list(table.columns[:5]) == ["run", "benchmark", "label", "method", "seed"]
    assert len(table) == 5
    assert set(table["benchmark"]) == {"Made up", "Other"}
    assert table["final"].tolist() == [final.figure(cell) for run in runs for cell in collect(run).cells]
    ranked = table[table["label"] == "simple_cil"]
    assert ranked["right_stack"].isna().all()
    assert ranked["calibration_error"].between(0, 1).all()
    assert all(table[name].dtype == float for name in table.columns[5:])


def test_a_line_may_be_an_experience(runs: list[Path]) -> None:
    table = continual.read_runs(runs[0], per="experience")
    assert len(table) == 4 * 3
    assert table["experience"].tolist() == [1, 2, 3] * 4
    cell = collect(runs[0]).cells[0]
    assert table["seen_accuracy"].tolist()[:3] == seen_accuracy(cell)
    assert math.isnan(table["forgetting"][0]), "one experience forgets nothing that is known"


def test_a_folder_of_a_sweep_stands_for_its_runs(runs: list[Path]) -> None:
    pandas.testing.assert_frame_equal(continual.read_runs(runs[0].parent), continual.read_runs(*runs))


def test_what_cannot_be_read_is_said(runs: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="is not there"):
        continual.read_runs(tmp_path / "nowhere")
    with pytest.raises(InputError, match="name a run folder"):
        continual.read_runs()
    with pytest.raises(InputError, match="'cell' or 'experience'"):
        continual.read_runs(runs[0], per="seed")  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match=r"equimos\[pandas\]"):
        continual.read_runs(runs[0])


@pytest.mark.slow
def test_the_report_writes_the_same_as_parquet(runs: list[Path], equimos: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    result = equimos("report", runs[1], "--out", tmp_path / "out", "--parquet")
    assert result.exit_code == 0, result.stderr
    for per in ("cell", "experience"):
        read = pandas.read_parquet(tmp_path / "out" / f"{per}s.parquet")
        pandas.testing.assert_frame_equal(read, continual.read_runs(runs[1], per=per))  # type: ignore[arg-type]
