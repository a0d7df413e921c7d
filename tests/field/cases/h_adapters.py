"""Kinds of adapters and merge rules: what is asked for and cannot be had."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import continual
from continual import FinetuneLearner, MOSLearner, adapters
from continual.adapters.bottleneck import Bottleneck
from continual.errors import EquimosError
from continual.testing import coloured_squares, tiny_backbone, tiny_convnet
from tests.field.case import Case

QUICK: dict[str, Any] = {"epochs": 1, "batch_size": 4, "bottleneck": 4}


def refused(match: str, **settings: Any) -> Callable[[Path], None]:
    """Return a check that a learner with these settings is refused in words that match."""

    def check(folder: Path) -> None:
        with pytest.raises(EquimosError, match=match):
            FinetuneLearner(tiny_backbone(), **{**QUICK, **settings})

    return check


def _on_a_cnn(folder: Path) -> None:
    for kind in adapters.KINDS.all():
        with pytest.raises(EquimosError, match="works inside the blocks of a ViT.*take a method that reads frozen"):
            FinetuneLearner(tiny_convnet(), adapter=kind)


def _not_installed(folder: Path) -> None:
    class Elsewhere(Bottleneck):
        name = "elsewhere"

    adapters.KINDS.add(Elsewhere)
    try:
        learner = FinetuneLearner(tiny_backbone(), **QUICK, adapter="elsewhere")
        learner.learn(*coloured_squares([0, 1], 4))
        learner.save(folder / "model.safetensors")
    finally:
        del adapters.KINDS._added["elsewhere"]
    with pytest.raises(EquimosError, match="unknown adapter 'elsewhere'"):
        continual.load(folder / "model.safetensors", learner.backbone)


def _mixed(folder: Path) -> None:
    learner = MOSLearner(tiny_backbone(), **QUICK, alignment_epochs=1)
    learner.learn(*coloured_squares([0, 1], 4))
    before = learner.predict(coloured_squares([0, 1], 2)[0])
    for other in ({"adapter": "lora"}, {"bottleneck": 8}, {"adapter": "compacter", "adapter_args": {"width": 8}}):
        with pytest.raises(EquimosError, match="one model has one kind: learn a new one"):
            learner.variant(**other)
    attention = {**QUICK, "adapter": "lora", "adapter_args": {"targets": "qv"}}
    other_rows = FinetuneLearner(tiny_backbone(), **attention)
    other_rows.learn(*coloured_squares([0, 1], 4))
    with pytest.raises(EquimosError, match="one model has one kind: learn a new one"):
        other_rows.variant(adapter_args={"targets": "qk"})
    assert learner.predict(coloured_squares([0, 1], 2)[0]).labels == before.labels


SECTION = "Adapters and merge rules"

CASES = [
    Case(
        SECTION,
        "`adapter='lorra'`",
        "an error with the nearest kind, `lora`",
        "a misspelt tuner name that ends in a KeyError of a dictionary, common in trackers of tuning libraries",
        refused("unknown adapter 'lorra': did you mean 'lora'", adapter="lorra"),
    ),
    Case(
        SECTION,
        "`adapter_args={'r': 8}` for lora, or a setting of another kind",
        "an error with the nearest setting of that kind",
        "settings of one tuner given to another and ignored without a word",
        refused(
            "unknown setting 'adapter_args.reductoin': did you mean 'reduction'",
            adapter="ladder",
            adapter_args={"reductoin": 4},
        ),
    ),
    Case(
        SECTION,
        "a ladder or Compacter whose numbers do not divide the ViT's width",
        "an error with the numbers that do",
        "an error of shapes in a matrix product deep inside a forward pass",
        refused(
            "reduction = 5 does not divide the ViT's width 32.* 1, 2, 4, 8, 16, 32",
            adapter="ladder",
            adapter_args={"reduction": 5},
        ),
    ),
    Case(
        SECTION,
        "`n = 5` for a Compacter of width 24",
        "an error with the divisors of 24",
        "an assertion without words, in code of hypercomplex layers",
        refused(
            "n = 5 does not divide the width 24: take one of 1, 2, 3, 4, 6, 8, 12, 24",
            adapter="compacter",
            adapter_args={"n": 5},
        ),
        row="",
    ),
    Case(
        SECTION,
        '`targets = "mlp"` for lora',
        "an error that names the targets there are",
        "target modules by a name that matches nothing, so that nothing is trained, without a word",
        refused("adapter_args.targets.*'qkv', 'qv'", adapter="lora", adapter_args={"targets": "mlp"}),
    ),
    Case(
        SECTION,
        "any adapter on a CNN",
        "an error that names methods for a CNN",
        "target modules that are not found in the base model, a frequent report about tuners on CNNs",
        _on_a_cnn,
    ),
    Case(
        SECTION,
        "a model file whose kind of adapter is not installed here",
        "an error that names the kind; no code is loaded for it",
        "a checkpoint that fails to load on another machine because of a class of its author's",
        _not_installed,
    ),
    Case(
        SECTION,
        "a learned model that is given another kind, width or target of adapter",
        "an error; the model stays as it was",
        "size mismatches when a checkpoint of one rank is loaded into another",
        _mixed,
    ),
]
