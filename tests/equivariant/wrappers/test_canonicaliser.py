"""What the canonicaliser promises beyond equivariance: its element, one pass, and that it learns."""

from __future__ import annotations

import torch
from torch import nn

import equivariant as eq
from tests.support.zoo import Anything, Micro

X = torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(7))


def test_the_canonicaliser_returns_its_element_and_the_turned_image() -> None:
    wrapper = eq.Canonicaliser(Micro(), "D4", score=Anything()).eval()
    elements, canonical = wrapper.canonicalise(X)
    for i, g in enumerate(elements.tolist()):
        assert torch.equal(canonical[i : i + 1], eq.act("D4", g, X[i : i + 1]))
    torch.testing.assert_close(wrapper(X), wrapper.model(canonical))
    for h in range(8):
        again, same = wrapper.canonicalise(eq.act("D4", h, X))
        assert torch.equal(same, canonical)
        group = eq.as_group("D4")
        assert [group.product(g, h) for g in again.tolist()] == elements.tolist()


def test_the_canonicaliser_runs_the_backbone_once() -> None:
    model, passes = Micro(), []
    model.register_forward_pre_hook(lambda module, args: passes.append(len(args[0])))
    eq.Canonicaliser(model, "D4").eval()(X)
    eq.Canonicaliser(model, "D4").train()(X)
    assert passes == [3, 3]


def test_gumbel_noise_tries_other_elements_and_teaches_the_score() -> None:
    wrapper = eq.Canonicaliser(Micro(), "C4")
    x = X[:1].expand(64, -1, -1, -1)
    answers = wrapper(x)
    assert len({tuple(row) for row in answers.detach().round(decimals=4).tolist()}) == 4
    answers.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in wrapper.score.parameters())


def test_the_canonicaliser_learns_which_way_is_up() -> None:
    """Bright at the top is easy for the model, which sees only the first row: s must learn to turn it up."""
    model = nn.Sequential(nn.AdaptiveAvgPool2d((6, 1)), nn.Flatten(), nn.Linear(6, 1))
    with torch.no_grad():
        model[2].weight.zero_()[0, 0] = 1
        model[2].bias.zero_()
    wrapper = eq.Canonicaliser(model.requires_grad_(False), "C4", channels=1)
    x = torch.zeros(32, 1, 6, 6)
    for i in range(32):
        x[i] = torch.zeros(1, 6, 6).index_fill_(1, torch.tensor([0]), 1.0).rot90(i % 4, (1, 2))
    optimizer = torch.optim.Adam(wrapper.score.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        (-wrapper(x)).mean().backward()
        optimizer.step()
    assert wrapper.eval()(x).mean() > 0.99
