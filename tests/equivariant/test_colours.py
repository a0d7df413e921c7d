"""Hue and negative as groups: axioms, exact actions over all pairs, and wrappers over all elements."""

from __future__ import annotations

from itertools import product

import pytest
import torch
from torch import nn

import equivariant as eq
from equivariant.groups import as_group

X = torch.rand(3, 3, 6, 6, generator=torch.Generator().manual_seed(0)).double()
GROUPS = {
    "hue1": 1,
    "hue3": 3,
    "hue6": 6,
    "hue8": 8,
    "negative": 2,
    "hue6 x negative": 12,
    "C4 x hue3": 12,
    "D4 x negative": 16,
}
ACTIONS = [eq.Colours(), eq.Colours(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))]


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("name", GROUPS)
def test_composition_over_every_pair(name: str, action: eq.Action) -> None:
    group = as_group(name)
    assert group.order == GROUPS[name]
    torch.testing.assert_close(action(group, group.identity, X), X, rtol=0, atol=1e-12)
    for g, h in product(range(group.order), repeat=2):
        twice = action(group, g, action(group, h, X))
        torch.testing.assert_close(twice, action(group, group.product(g, h), X), rtol=0, atol=1e-12)


def test_what_elements_do_to_colours() -> None:
    red, grey = torch.tensor([1.0, 0, 0]).reshape(1, 3, 1, 1).double(), torch.full((1, 3, 1, 1), 0.3).double()
    action, hue, negative = eq.Colours(), as_group("hue3"), as_group("negative")
    assert hue.names == ("e", "hue120", "hue240")
    assert as_group("hue2 x negative").elements[3] == (eq.Colour(0.5), eq.Colour(negative=True))
    torch.testing.assert_close(action(hue, 1, red).flatten(), torch.tensor([0.0, 1, 0]).double())
    torch.testing.assert_close(action(as_group("hue5"), 2, grey), grey)
    torch.testing.assert_close(action(negative, 1, grey), 1 - grey)
    shifted = eq.Images()(as_group("channel_cycle3"), 1, X)
    torch.testing.assert_close(action(hue, 1, X), shifted)
    normalised = eq.Colours(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.25))
    mean, std = (torch.tensor(one).double().reshape(1, 3, 1, 1) for one in (normalised.mean, normalised.std))
    for g in range(3):
        torch.testing.assert_close(normalised(hue, g, (X - mean) / std) * std + mean, action(hue, g, X))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["hue6", "negative", "C4 x hue3"])
def test_wrappers_are_exact_over_all_elements(name: str, dtype: torch.dtype) -> None:
    model, x = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 5)).to(dtype).eval(),
        X.to(dtype),
    )
    options = {"input": eq.Colours(), "output": eq.Trivial()}
    with pytest.raises(AssertionError, match="not equivariant"):
        eq.assert_equivariant(model, name, x, input=eq.Colours(), output=eq.Trivial())
    for wrapper in (eq.Equitune(model, name, **options), eq.AnytimeOrbit(model, name, limit=1.5, **options)):
        eq.assert_equivariant(wrapper.eval(), name, x)


def test_pictures_that_have_no_colours_and_elements_that_have_none_are_refused() -> None:
    with pytest.raises(eq.InputError, match=r"floating-point \(B, 3, …\), not torch.float64 \(3, 1, 6, 6\)"):
        eq.Equitune(nn.Flatten(), "hue3", input=eq.Colours())(X[:, :1])
    with pytest.raises(eq.InputError, match="says nothing about colours: use hue"):
        eq.Colours()(as_group("channels3"), 1, X)
    with pytest.raises(eq.InputError, match="says nothing about pictures"):
        eq.Images()(as_group("hue3"), 1, X)
    with pytest.raises(eq.GroupError, match="hue0 is no group"):
        as_group("hue0")
