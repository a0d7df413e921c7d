"""A CNN on the command line: learned with, asked, planned with and trained; or refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import continual
from continual.experiments.config import RunConfig
from continual.experiments.run import run_config
from continual.metrics.accuracy import final
from tests.continual.conftest import CONVNET, write_convnet
from tests.support.refusals import refused

Equimos = Callable[..., Any]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    return write_convnet(tmp_path / "cnn.safetensors", img_size=16)


def test_learning_and_predicting(equimos: Equimos, tmp_path: Path, flowers: Path, weights: Path) -> None:
    words = ["learn", "--yes", "--images", flowers, "--model", tmp_path / "model", "--weights", weights]
    assert equimos(*words, "--symmetry", "C4").exit_code == 0
    learner = continual.load(tmp_path / "model")
    assert (learner.method, learner.settings.group, learner.backbone.preprocessing.size) == ("strata", "C4", (16, 16))
    found = json.loads(equimos("predict", flowers, "--model", tmp_path / "model", "--json", "-").stdout)
    assert [row["answer"] for row in found] == learner.predict(flowers).labels


def test_what_needs_a_vit_is_refused_before_anything_is_made(
    equimos: Equimos, tmp_path: Path, flowers: Path, weights: Path, config: Path
) -> None:
    words = ["--images", flowers, "--model", tmp_path / "model", "--weights", weights, "--method", "mos"]
    refused(equimos("learn", "--yes", *words), "mos works inside the blocks of a ViT", "strata, ridge or simple_cil")
    assert not (tmp_path / "model").exists()
    changes = [f"backbone.weights={weights}", "methods.ranpac={}", "--out", tmp_path / "out"]
    for dry in ([], ["--dry-run"]):
        refused(equimos("run", config, *changes, *dry), "ranpac, unless epochs=0, works inside")
    assert not (tmp_path / "out" / "cells").exists()


def test_it_can_be_trained_on_the_first_experience(blob_run: Callable[..., RunConfig]) -> None:
    config = blob_run("[methods.ridge]\n[methods.strata]\n", 4)
    backbone = config.backbone.model_copy(update={"name": "resnet18", "args": {**CONVNET, "img_size": 16}})
    cells = run_config(config.model_copy(update={"backbone": backbone}))
    assert {cell.label: cell.each("passes") for cell in cells} == {"ridge": [1.0, 1.0], "strata": [2.0, 2.0]}
    assert all(final.figure(cell) > 0.5 for cell in cells)
