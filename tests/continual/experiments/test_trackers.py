"""Cells are logged where people look: TensorBoard, Weights & Biases and MLflow, each without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from continual.errors import InputError
from continual.experiments.config import load_config
from continual.experiments.run import run_config
from continual.experiments.trackers import TRACKERS
from continual.experiments.trackers.base import Tracker


@pytest.fixture
def folder(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path / "run"


class Listed(Tracker):
    name, summary, package = "listed", "keeps what it gets", "json"

    def write(self, *given: Any) -> None:
        vars(self).setdefault("given", []).append(given)


def test_a_tracker_gets_every_cell_once(config: Path, folder: Path) -> None:
    tracker = Listed(folder)
    cells = run_config(load_config(config), folder, tracker=tracker)
    ((label, title, settings, steps, figures),) = vars(tracker)["given"]
    assert (label, title, settings["method"]) == ("simple_cil, seed 1993", "Tiny", "simple_cil")
    assert len(steps) == len(cells[0].evaluations) == 2
    assert figures["final"] == steps[-1]["seen_accuracy"]
    run_config(load_config(config), folder, tracker=tracker)
    assert len(vars(tracker)["given"]) == 1, "cells that were finished before are not logged again"


def test_three_of_them_are_there() -> None:
    assert {*TRACKERS.all()} >= {"tensorboard", "wandb", "mlflow"}
    with pytest.raises(InputError, match="did you mean 'wandb'"):
        TRACKERS.get("wandbb")


def test_one_that_is_not_installed_names_its_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(InputError, match=r"equimos\[mlflow\]"):
        TRACKERS.get("mlflow")(folder)


def written(tracker: str, config: Path, folder: Path) -> Any:
    (cell,) = run_config(load_config(config), folder, tracker=TRACKERS.get(tracker)(folder))
    return cell


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_tensorboard(config: Path, folder: Path) -> None:
    pytest.importorskip("tensorboard")
    cell = written("tensorboard", config, folder)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (place,) = (folder / "tensorboard").iterdir()
    events = EventAccumulator(str(place))
    events.Reload()
    values = [event.value for event in events.Scalars("experience/seen_accuracy")]
    assert [event.step for event in events.Scalars("experience/seen_accuracy")] == [1, 2]
    assert len(values) == len(cell.evaluations)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_mlflow(config: Path, folder: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    written("mlflow", config, folder)
    client = mlflow.MlflowClient(tracking_uri=(folder / "mlruns").resolve().as_uri())
    experiment = client.get_experiment_by_name("Tiny")
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.data.params["method"] == "simple_cil"
    assert run.data.metrics["final final"] == run.data.metrics["seen_accuracy"]
    assert len(client.get_metric_history(run.info.run_id, "seen_accuracy")) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_wandb_offline(config: Path, folder: Path) -> None:
    pytest.importorskip("wandb")
    written("wandb", config, folder)
    (kept,) = (folder / "wandb").glob("offline-run-*/*.wandb")
    content = kept.read_bytes()
    assert b"simple_cil" in content
    assert b"accuracy" in content
    assert json.dumps("Tiny").strip('"').encode() in content
