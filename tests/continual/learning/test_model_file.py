"""One file, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import safetensors.torch
import torch

from continual.errors import ModelFileError
from continual.learning import model_file
from tests.support.headers import header

TENSORS = {"state/x": torch.arange(6).reshape(2, 3), "state/b": torch.tensor(1.5)}
VALUES = header(state={"n": [1, 2]})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    model_file.write(tmp_path / "model.safetensors", TENSORS, VALUES)
    return tmp_path / "model.safetensors"


def test_what_was_written_is_read(path: Path) -> None:
    tensors, values = model_file.read(str(path))
    assert values == VALUES
    assert tensors.keys() == TENSORS.keys()
    assert all(torch.equal(tensors[name], TENSORS[name]) for name in TENSORS)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_views_and_shared_tensors_are_written_as_they_are(path: Path) -> None:
    whole = torch.arange(6.0).reshape(2, 3).requires_grad_()
    model_file.write(path, {"state/whole": whole, "state/turned": whole.T, "state/row": whole[1]}, VALUES)
    tensors, _ = model_file.read(path)
    assert torch.equal(tensors["state/turned"], whole.T)
    assert torch.equal(tensors["state/row"], whole[1])


@pytest.mark.parametrize("failure", ["replace", "fsync"])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    path: Path, monkeypatch: pytest.MonkeyPatch, failure: str
) -> None:
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path if failure == "replace" else os, failure, full)
    with pytest.raises(ModelFileError, match=r"cannot write .*No space left.*is\s+unchanged"):
        model_file.write(path, {}, VALUES)
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    for place in (tmp_path / "gone" / "model", tmp_path):
        with pytest.raises(ModelFileError, match="cannot write"):
            model_file.write(place, TENSORS, VALUES)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_damaged_files_are_called_damaged(path: Path, damage: str) -> None:
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[:-5], "empty": b"", "text": b"no model at all"}[damage])
    with pytest.raises(ModelFileError, match="is damaged or not a model file"):
        model_file.read(path)


def test_files_of_others_are_told_apart(path: Path) -> None:
    with pytest.raises(ModelFileError, match="no model file at"):
        model_file.read(path.with_name("gone"))
    safetensors.torch.save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(ModelFileError, match="not a model saved by equimos"):
        model_file.read(path)
    for version, message in ((str(model_file.VERSION + 1), "has format version 7: upgrade"), ("new", "is damaged")):
        header = {"format": "equimos-model", "version": version, "equimos": "{}"}
        safetensors.torch.save_file({"x": torch.zeros(1)}, path, header)
        with pytest.raises(ModelFileError, match=message):
            model_file.read(path)


def test_prefixes_join_and_part() -> None:
    joined = {**model_file.join("a", {"x": torch.zeros(1)}), **model_file.join("ab", {"y": torch.zeros(1)})}
    assert list(joined) == ["a/x", "ab/y"]
    assert list(model_file.part(joined, "a")) == ["x"]


def test_versions_name_what_decides_results() -> None:
    assert {"python", "equimos", "torch", "timm"} <= model_file.versions().keys()
