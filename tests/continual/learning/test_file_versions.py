"""Files of earlier format versions: read as they were meant, and written in the newest one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

import continual
from continual.backbones.loading import Backbone
from continual.learning import model_file
from continual.methods import method

Blobs = Callable[..., tuple[Tensor, list[int]]]


@pytest.mark.parametrize("name", ["strata", "ridge", "ranpac"])
def test_version_1_has_both_triangles_of_the_sums(name: str, backbone: Backbone, blobs: Blobs, tmp_path: Path) -> None:
    """It answers, and learns on, with the same bits; what is saved from it is the newest version's file."""
    quick = {"epochs": 1, "batch_size": 4, "bottleneck": 4, "projection": 50}
    learner: Any = method(name)(backbone, **{k: v for k, v in quick.items() if name == "ranpac"})
    learner.learn(*blobs([0, 1, 2], 4))
    new, old = tmp_path / "new.safetensors", tmp_path / "old.safetensors"
    learner.save(new)
    tensors, header = model_file.fetch(new)
    whole = learner.state.sums.gram()
    width = len(whole)
    assert tensors.pop("state/sums/triangle").shape == (width * (width + 1) // 2,)
    tensors["state/sums/gram"] = whole
    assert header["version"] == "2"
    safetensors.torch.save_file(tensors, old, {**header, "version": "1"})

    read = continual.load(old, backbone)
    read.save(tmp_path / "again.safetensors")
    again = tmp_path / "again.safetensors"
    assert model_file.fetch(again)[1]["version"] == "2"
    found, expected = model_file.fetch(again)[0], model_file.fetch(new)[0]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    for each in (learner, read):
        each.learn(*blobs([3, 4], 4))
    images = blobs([0, 1, 2, 3, 4], 2, 1)[0]
    assert torch.equal(learner.predict(images).scores, read.predict(images).scores)


def test_the_sums_take_half_of_what_they_did(backbone: Backbone, blobs: Blobs) -> None:
    learner = method("strata")(backbone)
    learner.learn(*blobs([0, 1], 4))
    width, classes = 2 * 2 * 32, 2
    assert learner.memory()["sums"] == 8 * (width * (width + 3) // 2 + width * classes + classes)
