"""Models that can be stopped half-way give what they give whole."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch

import equivariant as eq
from tests.support.zoo import Micro, vit


@pytest.mark.parametrize(
    "options", [{}, {"registers": 0, "class_token": False, "global_pool": "avg"}, {"num_classes": 0}, {"tokens": True}]
)
def test_a_staged_vit_gives_what_the_vit_gives(options: dict[str, Any]) -> None:
    tokens = options.pop("tokens", False)
    model = vit(depth=3, **options).train()
    staged = eq.StagedViT(model, 2, tokens=tokens)
    assert all(module.training for module in model.modules())
    x = torch.randn(2, 3, 16, 16)
    torch.testing.assert_close(staged(x), model.forward_features(x) if tokens else model(x))
    assert sum(p.numel() for p in staged.parameters()) == sum(p.numel() for p in model.parameters())


def test_models_that_are_not_plain_vits_are_refused() -> None:
    with pytest.raises(eq.InputError, match=r"lacks .*blocks.*StagedPair"):
        eq.StagedViT(Micro(), 1)
    rotary = timm.create_model("eva02_tiny_patch14_224", img_size=28, embed_dim=24, depth=2, num_heads=2, num_classes=4)
    with pytest.raises(eq.InputError, match="does not give its own output"):
        eq.StagedViT(rotary, 1)
    with pytest.raises(eq.InputError, match="from 1 to 1"):
        eq.StagedViT(vit(), 2)
