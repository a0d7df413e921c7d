"""The commands compress and grow: what they say and write, what they refuse, and that a kill leaves nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from continual.backbones.loading import load_backbone, save_backbone
from continual.resizing import compressing
from tests.continual.conftest import NAME, write_convnet, write_pictures
from tests.support.kills import die_before
from tests.support.refusals import refused

Equimos = Callable[..., Any]


@pytest.fixture(scope="module")
def things(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixty images of anything."""
    names = [f"thing {number}" for number in range(30)]
    return write_pictures(tmp_path_factory.mktemp("things") / "things", names, 2)


@pytest.fixture
def small(equimos: Equimos, weights: Path, things: Path, tmp_path: Path) -> Path:
    words = ["compress", "--weights", weights, "--images", things, "--epochs", "1", "--device", "cpu"]
    result = equimos(*words, "--out", tmp_path / "small.safetensors")
    assert result.exit_code == 0, result.stderr
    assert "small.safetensors: compressed 1.5 times from" in result.stdout
    assert "the original's file takes" in result.stdout
    assert "linear layers: 24,576 numbers now" in result.stderr
    assert "of 6 images left out, it gives" in result.stderr
    assert "distilling: 4 steps in" in result.stderr
    return tmp_path / "small.safetensors"


def test_a_backbone_that_became_no_smaller_says_what_would(
    equimos: Equimos, weights: Path, things: Path, tmp_path: Path
) -> None:
    """An original of 16 bits a number, as many are published: factors of 32 bits take more."""
    with safetensors.safe_open(weights, "pt") as file:
        metadata = file.metadata()
    halves = {name: tensor.half() for name, tensor in safetensors.torch.load_file(weights).items()}
    safetensors.torch.save_file(halves, tmp_path / "16bit.safetensors", metadata)
    words = ["compress", "--weights", tmp_path / "16bit.safetensors", "--images", things, "--epochs", "0"]
    said = equimos(*words, "--out", tmp_path / "a.safetensors").stdout
    assert said.endswith(" (with --half the new one takes half)\n")
    assert "--half" not in equimos(*words, "--half", "--out", tmp_path / "b.safetensors").stdout
    assert (tmp_path / "b.safetensors").stat().st_size < 0.6 * (tmp_path / "a.safetensors").stat().st_size


def test_a_compressed_backbone_in_every_command(
    equimos: Equimos, small: Path, weights: Path, flowers: Path, things: Path, tmp_path: Path
) -> None:
    model, old = tmp_path / "m.safetensors", tmp_path / "old.safetensors"
    new = ["--images", flowers, "--yes", "--device", "cpu", "--method", "strata"]
    learned = equimos("learn", *new, "--model", model, "--weights", small)
    assert learned.exit_code == 0, learned.stderr
    assert "compressed 1.5 times from" in equimos("info", "--model", model).stdout
    for words in (
        ["predict", flowers / "rose", "--model", model, "--device", "cpu"],
        ["export", "--model", model, "--onnx", tmp_path / "onnx", "--int8"],
        ["learn", *new, "--model", old, "--weights", weights],
        ["port", "--model", old, "--to-weights", small, "--images", things, "--yes", "--device", "cpu"],
        ["predict", flowers / "rose", "--model", old, "--device", "cpu"],
        ["learn", *new, "--model", tmp_path / "in.safetensors", "--weights", small, "--embed-backbone"],
        ["predict", flowers / "rose", "--model", tmp_path / "in.safetensors", "--device", "cpu"],
    ):
        result = equimos(*words)
        assert result.exit_code == 0, (words, result.stderr)
    small.unlink()
    refused(equimos("predict", flowers / "rose", "--model", model), "say where they are with --weights")
    assert equimos("predict", flowers / "rose", "--model", tmp_path / "in.safetensors").exit_code == 0


def test_a_backbone_grows_and_a_model_goes_with_it(
    equimos: Equimos, weights: Path, flowers: Path, things: Path, tmp_path: Path
) -> None:
    big, model = tmp_path / "big.safetensors", tmp_path / "m.safetensors"
    words = ["grow", "--backbone", weights, "--width", "64", "--depth", "3", "--device", "cpu"]
    shown = equimos(*words, "--out", big, "--dry-run")
    assert shown.exit_code == 0, shown.stderr
    assert "2 blocks of width 32 now, 3 of 64 then" in shown.stderr
    assert not big.exists()
    result = equimos(*words, "--out", big)
    assert result.exit_code == 0, result.stderr
    assert "big.safetensors: grown (lossless) from" in result.stdout
    assert (load_backbone(weights=big).depth, load_backbone(weights=big).width) == (3, 64)
    new = ["--images", flowers, "--yes", "--device", "cpu", "--method", "strata", "--model", model]
    assert equimos("learn", *new, "--weights", weights).exit_code == 0
    ported = equimos("port", "--model", model, "--to-weights", big, "--images", things, "--yes", "--device", "cpu")
    assert ported.exit_code == 0, ported.stderr
    trained = [*words, "--how", "mango", "--steps", "2", "--images", things, "--out", tmp_path / "mango.safetensors"]
    result = equimos(*trained)
    assert result.exit_code == 0, result.stderr
    assert "distilling: 2 steps" in result.stderr


def test_what_cannot_be_made_writes_nothing(
    equimos: Equimos, weights: Path, things: Path, small: Path, flowers: Path, tmp_path: Path
) -> None:
    convnet, out = write_convnet(tmp_path / "cnn.safetensors"), tmp_path / "out.safetensors"
    there = sorted(tmp_path.iterdir())
    compress = ["compress", "--out", out, "--device", "cpu"]
    grow = ["grow", "--out", out, "--device", "cpu", "--backbone", weights]
    for words, said in (
        ([*compress, "--images", things, "--weights", convnet], "this ResNet cannot be compressed"),
        ([*compress, "--images", things, "--weights", weights, "--ratio", "0.9"], "from 1 to 16, got 0.9"),
        ([*compress, "--images", things, "--weights", weights, "--ratio", "nan"], "got nan"),
        ([*compress, "--images", flowers, "--weights", weights], "8 images are too few"),
        ([*compress, "--images", things, "--weights", small], "is compressed already"),
        ([*compress, "--images", tmp_path / "none", "--weights", weights], "no image at"),
        ([*compress, "--images", things, "--backbone", NAME], "needs its weights' tag"),
        ([*compress, "--images", things, "--backbone", "gone.safetensors"], "no weights file at gone.safetensors"),
        ([*compress, "--images", things, "--weights", weights, "--lr", "nan"], "lr above 0"),
        ([*grow, "--width", "48"], "take 32 or 64"),
        ([*grow], "ask for more"),
        ([*grow, "--width", "64", "--heads", "3"], "makes 4 of them"),
        ([*grow, "--width", "64", "--how", "magic"], "not by 'magic'"),
        ([*grow, "--width", "64", "--how", "mango", "--steps", "5"], "steps need images"),
        (["grow", "--out", out, "--backbone", convnet, "--depth", "9"], "cannot be grown"),
        (["grow", "--out", out, "--backbone", small, "--depth", "3"], "cannot be grown"),
        (["grow", "--out", small, "--backbone", weights, "--depth", "3"], "is there already"),
        (["grow", "--out", tmp_path / "no" / "x.safetensors", "--backbone", weights, "--depth", "3"], "no folder"),
    ):
        refused(equimos(*words), said)
        assert sorted(tmp_path.iterdir()) == there, words


def test_a_dry_run_and_an_interruption_write_nothing(
    equimos: Equimos, weights: Path, things: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["compress", "--weights", weights, "--images", things, "--out", tmp_path / "small.safetensors"]
    dry = equimos(*words, "--ratio", "2", "--dry-run", "--device", "cpu")
    assert dry.exit_code == 0, dry.stderr
    assert "12,288 then" in dry.stderr or "then; the whole backbone" in dry.stderr
    assert list(tmp_path.iterdir()) == []

    def stop(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(compressing, "distil", stop)
    stopped = equimos(*words, "--device", "cpu")
    assert stopped.exit_code == 130
    assert "small.safetensors was not written" in stopped.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_a_backbone_file_is_there_whole_or_not_at_all(weights: Path, tmp_path: Path) -> None:
    """A process that is killed before its n-th step in the folder, for every n."""
    made, target = load_backbone(weights=weights), tmp_path / "box" / "w.safetensors"
    target.parent.mkdir()
    for step in range(1, 100):
        child = os.fork()
        if child == 0:
            torch.set_num_threads(1)
            die_before(step, str(target.parent))
            save_backbone(made, target)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        assert not target.exists() or load_backbone(weights=target).sha256 == made.sha256
        if status == 0:
            break
        target.unlink(missing_ok=True)
    assert target.exists()
    assert 2 < step < 99
