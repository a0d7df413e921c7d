"""Heads taken off and sub-modules wrapped."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import equivariant as eq
from tests.support.zoo import TinyUNet, convnext, mobilenet, vit


@pytest.mark.parametrize(
    ("build", "side", "width"),
    [
        (vit, 16, 16),
        (convnext, 32, 16),
        (mobilenet, 24, 8),
    ],
)
def test_taking_off_the_head_changes_nothing_but_where_it_is(build: Any, side: int, width: int) -> None:
    model, x = build().eval(), torch.randn(2, 3, side, side)
    before, count = model(x), sum(p.numel() for p in model.parameters())
    features, head = eq.take_off_head(model)
    assert features is model
    assert features(x).shape == (2, width)
    torch.testing.assert_close(head(features(x)), before)
    assert sum(p.numel() for p in features.parameters()) + sum(p.numel() for p in head.parameters()) == count
    with pytest.raises(eq.InputError, match="no head to take off"):
        eq.take_off_head(model)


def test_a_named_sub_module_can_be_wrapped() -> None:
    model = nn.Sequential(TinyUNet(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2)).eval()
    x = torch.randn(2, 3, 8, 8)
    assert eq.equivariance_error(model, "D4", x).largest > 1e-3
    wrapped = eq.wrap_module(model, "0", lambda part: eq.Equitune(part, "D4", output=eq.Maps()))
    assert wrapped is model
    eq.assert_equivariant(model, "D4", x)
    eq.wrap_module(model, "0.model.down", lambda part: part)
    with pytest.raises(eq.InputError, match="no sub-module 'features': its children are 0, 1, 2, 3"):
        eq.wrap_module(model, "features", lambda part: part)
    with pytest.raises(eq.InputError, match="name one of"):
        eq.take_off_head(TinyUNet())
