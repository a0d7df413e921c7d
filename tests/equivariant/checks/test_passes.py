"""Passes of the backbone are those it makes."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import equivariant as eq
from equivariant.checks.evaluation import score
from equivariant.checks.passes import counted
from tests.support.zoo import WRAPPERS, Micro, vit

DATA = torch.randn(6, 3, 6, 6, generator=torch.Generator().manual_seed(0)), torch.arange(6) % 4


@pytest.mark.parametrize("name", WRAPPERS)
def test_every_wrapper_s_passes_are_counted(name: str) -> None:
    wrapper = WRAPPERS[name](Micro(), "D4")
    expected = {"canonicaliser": 1, "pruned": 2}.get(name, 8)
    if name == "anytime":
        expected = int((wrapper.eval().orbit_weights(DATA[0]) > 0).sum()) / 6
    found = score(wrapper, DATA, 4)
    assert (found.passes, found.finished) == (expected, expected)
    assert eq.evaluate(nn.Sequential(wrapper), DATA, "D4").passes == expected


def test_a_plain_model_takes_one() -> None:
    assert eq.evaluate(Micro(), DATA, "C4").passes == 1


def test_several_wrappers_have_no_passes_of_one_model() -> None:
    model = nn.Sequential(eq.Equitune(nn.Identity(), "C4", output=eq.Maps()), eq.Equitune(Micro(), "C4"))
    with pytest.raises(eq.InputError, match="holds 2 wrappers: take one of them at a time"):
        eq.evaluate(model, DATA, "C4")


def test_the_first_blocks_of_a_pruned_orbit_count_for_their_share() -> None:
    model = vit(depth=8)
    wrapper = eq.PrunedOrbit(eq.StagedViT(model, blocks=2), "C4").eval()
    images = torch.randn(3, 3, 16, 16)
    with counted(wrapper) as passes:
        wrapper(images)
    assert passes.finished(3) == passes.per_image(3) == pytest.approx(4), "it starts with equal scores"
    nn.init.normal_(wrapper.score.layers[-1].weight)
    with counted(wrapper) as passes:
        wrapper(images)
    assert passes.finished(3) == 1
    assert passes.per_image(3) == pytest.approx((4 * 2 + 6) / 8, abs=0.1), "the patch embedding is more than blocks"
    assert "early" not in vars(wrapper.model)
