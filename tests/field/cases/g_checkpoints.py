"""Checkpoints of training programs, and backbones for other channels."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import pytest
import torch

from continual.backbones.loading import Backbone, create, load_backbone
from continual.errors import BackboneError
from continual.testing import TINY_ARGS
from tests.field.case import Case

NAME = "vit_tiny_patch16_224"


class _Callback:
    """Code that a checkpoint names."""


def _read(folder: Path, kept: Any, suffix: str = ".pth", **more: Any) -> Backbone:
    torch.save(kept, folder / f"w{suffix}")
    return load_backbone(NAME, weights=folder / f"w{suffix}", **TINY_ARGS, **more)


def _state(prefix: str = "") -> dict[str, Any]:
    return {prefix + key: value for key, value in create(NAME, TINY_ARGS).state_dict().items()}


def _teacher(folder: Path) -> None:
    teacher, student = _state("backbone."), _state("module.backbone.")
    found = _read(folder, {"student": student, "teacher": teacher, "args": argparse.Namespace(lr=1)})
    weight = found.frozen.network.state_dict()["patch_embed.proj.weight"]
    assert torch.equal(weight, teacher["backbone.patch_embed.proj.weight"])


def _parts(folder: Path) -> None:
    online, target = _state("backbone."), _state("backbone.")
    optimiser = {"state": {0: {"exp_avg": torch.zeros(3)}}, "param_groups": [{"lr": 0.1}]}
    found = _read(folder, {"online": online, "target": target, "optimizer": optimiser, "epoch": 3}, ".ckpt")
    weight = found.frozen.network.state_dict()["patch_embed.proj.weight"]
    assert torch.equal(weight, target["backbone.patch_embed.proj.weight"])
    assert "under 'target.backbone.'" in str(found.fit)


def _parallel(folder: Path) -> None:
    for suffix in (".ckpt", ".tar", ".PTH", ".bin"):
        found = _read(folder, {"state_dict": _state("module.") | {"module.head.weight": torch.zeros(3, 32)}}, suffix)
        assert "under 'module.'" in str(found.fit)
        assert "1 others left out" in str(found.fit)


def _code(folder: Path) -> None:
    with pytest.raises(BackboneError, match=r"was not opened.*save the model's state_dict"):
        _read(folder, {"state_dict": _state(), "callbacks": _Callback()}, ".ckpt")


def _other(folder: Path) -> None:
    with pytest.raises(BackboneError, match=r"tensors it has \d+: .* is missing"):
        _read(folder, {"conv1.weight": torch.zeros(1)})


def _channels(folder: Path) -> None:
    found = _read(folder, _state(), in_chans=5)
    assert found.frozen.channels == len(found.preprocessing.mean) == 5


def _lever(folder: Path) -> None:
    with pytest.raises(BackboneError, match="'pretrained_cfg_overlay' is not allowed"):
        _read(folder, _state(), pretrained_cfg_overlay={"url": "http://127.0.0.1:9/"})


SECTION = "Checkpoints and backbones"
CASES = [
    Case(
        SECTION,
        "a checkpoint of self-supervised training, with `student` and `teacher`, `backbone.` before every name",
        "the teacher's backbone is read",
        "missing keys after a self-supervised run, a common question in its projects' trackers",
        _teacher,
    ),
    Case(
        SECTION,
        "a checkpoint whose parts have names of the program's own, such as `online` and `target`",
        "the network is found in whichever part holds it, in a moving average (`target`, `ema`, `momentum`) first",
        "checkpoints of self-supervised programs that each keep networks under names of their own",
        _parts,
    ),
    Case(
        SECTION,
        "`module.`, `model.`, `backbone.`, `encoder.` or anything before the names; `.ckpt`, `.tar`, `.PTH`, `.bin`",
        "the network is found under whatever stands before it, and heads are left out; `fit` of the backbone says so",
        "checkpoints of parallel training that load only after the keys are renamed by hand",
        _parallel,
    ),
    Case(
        SECTION,
        "a checkpoint that holds objects beside weights",
        "it is not opened, and nothing in it runs; the error names the object and the way out",
        "`weights_only` errors since torch 2.6, in trackers of training frameworks",
        _code,
    ),
    Case(
        SECTION,
        "a file of another network",
        "it is refused, with how many tensors matched, and names",
        "models that load without a word with `strict=False` and know nothing",
        _other,
    ),
    Case(
        SECTION,
        "a network for RGB, and images of C channels (`in_chans=C`)",
        "the first layer's weights are adapted as timm does; mean and deviation are averages of RGB's, or as given",
        "multispectral and grey images on pretrained networks, asked in timm's tracker",
        _channels,
    ),
    Case(
        SECTION,
        "arguments that are not structural, from a model file, a weights file or a config",
        "they are refused by name, before timm sees them",
        "keyword arguments passed through to constructors, in reports on security",
        _lever,
        row="",
    ),
]
