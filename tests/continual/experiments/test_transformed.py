"""Test images that are transformed: which they are, what is counted, and how it is reported."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import continual
from continual.backbones.loading import Backbone
from continual.data.inputs import as_experience
from continual.datasets.streams import Experience
from continual.errors import InputError
from continual.experiments.config import load_config
from continual.experiments.transformed import transformed_images, transformed_training
from continual.metrics.transformed import transformed_measures
from equivariant.orbits import orbit

Equimos = Callable[..., Any]


def experience(images: Any, labels: list[Any]) -> Experience:
    return Experience([], [], images, labels, ("a", "b"))


def test_shares_by_hand() -> None:
    truth, untransformed, transformed = [list(text) for text in ("abab", "abaa", "bbba")]  # three right; one right
    found = transformed_measures(untransformed, transformed, truth, order=4)
    assert found == {"turned": (0.75 + 3 * 0.25) / 4, "consistency": 0.5, "orbit_flips": 0.5}
    found = transformed_measures(untransformed, untransformed, truth, order=2)
    assert found == {"turned": 0.75, "consistency": 1.0, "orbit_flips": 0.0}


def test_each_image_is_moved_by_an_element_of_its_own(backbone: Backbone, blobs: Any) -> None:
    images, labels = blobs([0, 1], 20)
    every = orbit("D4", torch.stack([backbone.preprocessing.evaluation()(image) for image in images]))

    def turned(number: int) -> Any:
        return transformed_images(experience(images, labels), number, backbone.preprocessing, "D4", 1993)

    drawn = [[g for g in range(8) if torch.equal(turned(3)[i][0], every[g, i])] for i in range(len(images))]
    assert {g for (g,) in drawn} == set(range(1, 8))
    assert torch.equal(turned(3).elements, turned(3).elements)
    assert not torch.equal(turned(4).elements, turned(3).elements)


def test_training_images_in_any_position_keep_it(backbone: Backbone, blobs: Any) -> None:
    images, labels = blobs([0, 1], 20)
    data = as_experience(images, labels, replace(backbone.preprocessing, augment=False))
    every = orbit("C4", torch.stack([image for image, _ in data.evaluation]))
    found = transformed_training(data, 0, "C4", 1993)
    drawn = [[g for g in range(4) if torch.equal(found.training[i][0], every[g, i])] for i in range(len(images))]
    assert {g for (g,) in drawn} == set(range(4))
    assert all(torch.equal(found.training[i][0], found.evaluation[i][0]) for i in range(len(images)))
    assert found.labels == labels


@pytest.mark.slow
def test_a_run_measures_turned_images_and_reports_them(equimos: Equimos, config: Path) -> None:
    text = config.read_text() + '\n[methods.ridge]\n[methods."ridge, D4"]\nmethod = "ridge"\ngroup = "D4"\nviews = 8\n'
    config.write_text('transformed = ["C4", "D4"]\ntrain_transformed = "C4"\n' + text)
    out = config.parent / "out"
    result = equimos("run", config, "--out", out)
    assert result.exit_code == 0, result.stderr
    cells = {cell["label"]: cell for cell in json.loads((out / "results.json").read_text())}
    for group in ("C4", "D4"):
        assert len(cells["ridge"][f"turned {group}"]) == 2
        assert [cells["ridge, D4"][f"{name} {group}"][-1] for name in ("consistency", "orbit_flips")] == [1, 0]
    assert [round(p) for p in (cells["ridge"]["passes"][-1], cells["ridge, D4"]["passes"][-1])] == [1, 8]
    report = equimos("report", out, "--out", config.parent / "report")
    assert report.exit_code == 0, report.stderr
    assert "transformed by C4" in (config.parent / "report" / "table.md").read_text()
    assert (config.parent / "report" / "pictures" / "turned.png").is_file()


@pytest.mark.parametrize("bad", ['["C4", "Q8"]', '"C4"', "[4]"])
def test_an_unknown_group_is_refused(config: Path, bad: str) -> None:
    config.write_text(f"transformed = {bad}\n" + config.read_text())
    with pytest.raises(InputError, match="transformed"):
        load_config(config)


def test_learn_makes_a_model_whose_answers_do_not_turn(
    equimos: Equimos, flowers: Path, weights: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model.safetensors"
    words = ["learn", "--yes", "--images", flowers, "--model", model, "--method", "ridge", "--symmetry", "C4"]
    result = equimos(*words, "--weights", weights)
    assert result.exit_code == 0, result.stderr
    assert continual.load(model).symmetry is not None
    again = equimos(*words[:-1], "D4")
    assert again.exit_code == 2
    assert "group=D4 (it is C4)" in again.stderr
    wrong = equimos(*words[:-1], "C7x", "--weights", weights)
    assert wrong.exit_code == 2
    assert "C7x" in wrong.stderr
