"""Checkpoints: what was written is read, and what is damaged is not believed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch

from continual.backbones.loading import Backbone
from continual.errors import ModelFileError
from continual.learning import checkpoints
from continual.learning.checkpoints import CheckpointFolder
from continual.learning.loop import go_back, snapshot
from continual.methods.finetune import FinetuneLearner

VALUE: dict[Any, Any] = {
    "step": torch.tensor(3.5),
    0: [torch.arange(6).reshape(2, 3).T, None, True, 0.1],
    ("a", 1): {"betas": (0.9, 0.999), "empty": torch.empty(0, 3), "half": torch.ones(2, dtype=torch.bfloat16)},
}


def test_nested_values_come_back_as_they_were(tmp_path: Path) -> None:
    checkpoints.write(tmp_path / "c", VALUE)
    found: Any = checkpoints.read(tmp_path / "c")
    assert list(found) == list(VALUE)
    assert torch.equal(found["step"], VALUE["step"])
    assert torch.equal(found[0][0], VALUE[0][0])
    assert found[0][1:] == [None, True, 0.1]
    assert found["a", 1]["betas"] == (0.9, 0.999)
    assert found["a", 1]["empty"].shape == (0, 3)
    assert found["a", 1]["half"].dtype == torch.bfloat16


@pytest.mark.parametrize("place", [0.02, 0.3, 0.5, 0.7, 0.99])
def test_a_changed_byte_anywhere_is_seen(tmp_path: Path, place: float) -> None:
    checkpoints.write(tmp_path / "c", {"x": torch.arange(400.0), "y": "a word"})
    data = bytearray((tmp_path / "c").read_bytes())
    data[int(place * len(data))] ^= 1
    (tmp_path / "c").write_bytes(data)
    assert checkpoints.read(tmp_path / "c") is None


def test_the_last_two_are_kept_and_a_damaged_one_is_passed_over(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path / "new")
    assert folder.latest() is None
    for number in (1, 2, 9, 10):
        folder.keep(number, {"number": number})
    assert folder.numbers() == [9, 10]
    assert folder.latest() == (10, {"number": 10})
    whole = folder.path(10).read_bytes()
    for damaged in (whole[: len(whole) // 2], b""):
        folder.path(10).write_bytes(damaged)
        assert folder.latest() == (9, {"number": 9})
    folder.path(9).write_bytes(b"no checkpoint")
    assert folder.latest() is None


def test_the_time_before_an_interruption_counts(tmp_path: Path) -> None:
    CheckpointFolder(tmp_path).keep(1, None)
    file = tmp_path / "epoch-1.safetensors"
    checkpoints.write(file, {"value": None, "seconds": 100.0})
    resumed = CheckpointFolder(tmp_path)
    assert resumed.seconds() < 1
    resumed.latest()
    assert 100 <= resumed.seconds() < 101


def test_a_full_disk_is_one_error_and_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.keep(1, "one")

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelFileError, match=r"epoch-2.*No space left.*Free space"):
        folder.keep(2, "two")
    monkeypatch.undo()
    assert [p.name for p in tmp_path.iterdir()] == ["epoch-1.safetensors"]
    assert folder.latest() == (1, "one")


@pytest.mark.parametrize(
    ("optimizer", "scheduler"),
    [
        (lambda p: torch.optim.AdamW(p, lr=0.1), lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.1, total_steps=9)),
        (lambda p: torch.optim.SGD(p, lr=0.1), lambda o: torch.optim.lr_scheduler.StepLR(o, 2)),
    ],
)
def test_optimizers_and_schedules_go_on_to_the_same_bits(tmp_path: Path, optimizer: Any, scheduler: Any) -> None:
    def begin() -> tuple[Any, Any, Any]:
        weight = torch.nn.Parameter(torch.ones(3))
        made = optimizer([weight])
        return weight, made, scheduler(made)

    def step(weight: Any, made: Any, schedule: Any, number: int) -> None:
        weight.grad = torch.tensor([1.0, -2.0, 0.5]) * (number + 1)
        made.step()
        schedule.step()

    weight, *steppers = begin()
    for number in range(6):
        step(weight, *steppers, number)
        if number == 2:
            checkpoints.write(tmp_path / "c", snapshot({"w": weight}, *steppers))
    resumed, *others = begin()
    go_back(checkpoints.read(tmp_path / "c") or {}, {"w": resumed}, *others)
    for number in range(3, 6):
        step(resumed, *others, number)
    assert torch.equal(weight, resumed)


def test_what_training_changes_has_a_name_of_its_own(backbone: Backbone, blobs: Any) -> None:
    from continual.data.inputs import as_experience

    training: Any = FinetuneLearner(backbone).begin(as_experience(*blobs([0, 1], 2), backbone.preprocessing))
    live = training.live_tensors()
    expected = [*training.adapter.parameters(), *training.head.parameters()]
    assert {id(t) for t in live.values()} == {id(p) for p in expected}
    assert len(live) == len(expected)
