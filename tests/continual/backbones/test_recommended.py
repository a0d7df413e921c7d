"""The short list of backbones: what it says of each is so."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch

from continual.backbones import recommended
from continual.backbones.recommended import RECOMMENDED, Recommended
from continual.errors import BackboneError

Equimos = Callable[..., Any]


@pytest.mark.parametrize("choice", RECOMMENDED, ids=lambda choice: choice.tag)
def test_size_licence_and_input_are_timms(choice: Recommended) -> None:
    recommended.check(choice.tag)
    with torch.device("meta"):
        network = timm.create_model(choice.tag)
        headless = timm.create_model(choice.tag, num_classes=0, **choice.model_args)
    numbers = sum(tensor.numel() for tensor in network.state_dict().values())
    assert choice.megabytes == round(4 * numbers / 1e6)
    assert network.pretrained_cfg["license"] == "apache-2.0"
    if "CNN" in choice.purpose:
        assert network.pretrained_cfg["input_size"] == (3, choice.pixels, choice.pixels)
    else:
        assert headless.patch_embed.img_size == (choice.pixels, choice.pixels)


def test_they_are_listed(equimos: Equimos) -> None:
    rows = json.loads(equimos("list", "backbones", "--json", "-").stdout)
    assert [row["name"] for row in rows] == [choice.tag for choice in RECOMMENDED]
    assert "88 MB, 224 px, with --model-arg img_size=224" in rows[0]["summary"]
    assert {row["from"] for row in rows} == {"built in"}


def test_names_are_checked_without_making_anything() -> None:
    for name, said in (("vit_tini.x", "unknown timm model"), ("resnet18", "needs its weights' tag")):
        with pytest.raises(BackboneError, match=said):
            recommended.check(name)
