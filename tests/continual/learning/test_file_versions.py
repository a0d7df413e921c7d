"""Files of earlier format versions: read as they were meant, and written in the newest one.

`tests/support/model_files` holds files that earlier releases wrote, and what they answered.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

import continual
from continual import files
from continual.backbones.loading import Backbone, load_backbone
from continual.errors import InputError
from continual.learning import model_file
from continual.methods import method
from continual.testing import coloured_squares

Blobs = Callable[..., tuple[Tensor, list[int]]]
FILES = Path(__file__).resolve().parents[2] / "support" / "model_files"
OLD = sorted(FILES.glob("*/*.safetensors"))


@pytest.fixture(scope="module")
def frozen() -> Backbone:
    return load_backbone(weights=FILES / "backbone.safetensors", crop_scale=(0.5, 1.0))


@pytest.fixture(params=OLD, ids=lambda path: f"{path.parent.name}-{path.stem}")
def old(request: pytest.FixtureRequest) -> Path:
    return Path(request.param)


def images(classes: int = 5) -> Tensor:
    return coloured_squares(range(classes), 1, seed=1)[0]


def test_there_are_files_of_every_version_before() -> None:
    versions = {files.read_header(path).metadata["version"] for path in OLD}
    assert versions == {str(number) for number in range(1, model_file.OF_ONE_BACKBONE)}


def test_it_answers_as_it_did(old: Path, frozen: Backbone) -> None:
    expected = json.loads((old.parent / "answers.json").read_text())[old.stem]
    found = continual.load(old, frozen).predict(images())
    assert found.labels == expected.pop("labels")
    assert "scores" in expected
    for name, values in expected.items():
        value = getattr(found, {"familiarity": "p_value"}.get(name, name))
        if name == "probabilities" and old.stem in ("mos", "slca"):
            # They were of statistics, of which the likeliest class need not be the answer.
            assert torch.equal(value.argmax(1), found.scores.argmax(1))
            continue
        torch.testing.assert_close(value, torch.tensor(values), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["ridge", "strata", "ranpac"])
def test_classes_weigh_as_they_did_unless_asked_otherwise(name: str, frozen: Backbone) -> None:
    """What is written after is of the same weights; asked for others, the same file answers by them."""
    path = next(path for path in OLD if path.stem == name and path.parent.name == "v2")
    learner = continual.load(path, frozen)
    assert learner.settings.balance == 0
    assert learner.state.balance is None
    learner.learn(*coloured_squares([5], 1))
    learner.learn(*coloured_squares([0, 1], 30))
    assert learner.state.balance == 0
    even = learner.variant(balance=1.0)
    assert not torch.allclose(even.predict(images()).scores, learner.predict(images()).scores, atol=1e-4)
    once = learner.variant(balance=1.0)
    once.learn(*coloured_squares([0], 1))
    assert once.state.balance == 1


def test_it_learns_on(old: Path, frozen: Backbone) -> None:
    learner, newest = continual.load(old, frozen), coloured_squares([5, 6], 4)
    before = learner.classes
    if not learner.exemplar_free:
        with pytest.raises(InputError, match="its images are not in the file"):
            learner.learn(*newest)
        return
    learner.learn(*newest)
    assert learner.classes == (*before, 5, 6)
    answers = learner.predict(images(7))
    assert answers.scores.shape == (7, 7)
    assert answers.scores.isfinite().all()


def test_it_is_written_in_the_newest_version_and_read_again_with_the_same_bits(
    old: Path, frozen: Backbone, tmp_path: Path
) -> None:
    learner = continual.load(old, frozen)
    learner.save(tmp_path / "new.safetensors")
    assert files.read_header(tmp_path / "new.safetensors").metadata["version"] == str(model_file.OF_ONE_BACKBONE)
    again = continual.load(tmp_path / "new.safetensors", frozen)
    (tensors, values), (others, same_values) = learner.export(), again.export()
    assert values == same_values
    assert again.settings == learner.settings
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)
    found, expected = again.predict(images()), learner.predict(images())
    for name in ("scores", "probabilities", "p_value", "similarity", "stack"):
        mine, own = getattr(found, name), getattr(expected, name)
        assert (mine is None and own is None) or torch.equal(mine, own)


def test_settings_under_their_names_of_before(frozen: Backbone, tmp_path: Path) -> None:
    """No warning either: nobody who reads a file can rename what is in it."""
    tensors, header = model_file.fetch(FILES / "v2" / "strata.safetensors")
    values = json.loads(header["equimos"])
    assert {"strength", "turned_training"} <= values["settings"].keys()
    values["settings"] |= {"strength": 0.5, "turned_training": False}
    safetensors.torch.save_file(tensors, tmp_path / "m.safetensors", {**header, "equimos": json.dumps(values)})
    settings: Any = continual.load(tmp_path / "m.safetensors", frozen).settings
    assert (settings.penalty, settings.transformed_training) == (0.5, False)


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
    assert header["version"] == ("3" if name == "ranpac" else "6")
    assert tensors.pop("state/sums/triangle").shape == (width * (width + 1) // 2,)
    tensors["state/sums/gram"] = whole
    tensors = {name.replace("state/head/", "state/readout/"): tensor for name, tensor in tensors.items()}
    values = json.loads(header["equimos"])
    common = ("classes", "class_experience", "experiences", "updates")
    values |= {"state": {part: values["state"][part] for part in common}, "method_state": {}}
    safetensors.torch.save_file(tensors, old, {**header, "version": "1", "equimos": json.dumps(values)})

    read = continual.load(old, backbone)
    read.save(tmp_path / "again.safetensors")
    again = tmp_path / "again.safetensors"
    assert model_file.fetch(again)[1]["version"] == header["version"]
    found, expected = model_file.fetch(again)[0], model_file.fetch(new)[0]
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in found)
    for each in (learner, read):
        each.learn(*blobs([3, 4], 4))
    asked = blobs([0, 1, 2, 3, 4], 2, 1)[0]
    assert torch.equal(learner.predict(asked).scores, read.predict(asked).scores)


def test_the_sums_take_half_of_what_they_did(backbone: Backbone, blobs: Blobs) -> None:
    learner = method("strata")(backbone)
    learner.learn(*blobs([0, 1], 4))
    width, classes = 2 * 2 * 32, 2
    assert learner.memory()["sums"] == 8 * (width * (width + 3) // 2 + width * classes + classes)
