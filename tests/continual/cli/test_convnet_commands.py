"""A CNN on the command line: learned with, asked, planned with and trained; or refused in one line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch

import continual
from continual.backbones.loading import create
from continual.experiments.config import RunConfig
from continual.experiments.run import run_config
from continual.metrics.accuracy import final
from continual.seeding import seeded
from tests.support.refusals import refused

Equimos = Callable[..., Any]
ARGUMENTS: dict[str, Any] = {"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]}


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    with seeded(0, "weights"):
        network = create("resnet18", ARGUMENTS)
    metadata = {key: json.dumps(value) for key, value in (*ARGUMENTS.items(), ("img_size", 16))}
    safetensors.torch.save_file(network.state_dict(), tmp_path / "cnn.safetensors", {"timm": "resnet18", **metadata})
    return tmp_path / "cnn.safetensors"


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
    backbone = config.backbone.model_copy(update={"name": "resnet18", "args": {**ARGUMENTS, "img_size": 16}})
    cells = run_config(config.model_copy(update={"backbone": backbone}))
    assert {cell.label: cell.each("passes") for cell in cells} == {"ridge": [1.0, 1.0], "strata": [2.0, 2.0]}
    assert all(final.figure(cell) > 0.5 for cell in cells)
