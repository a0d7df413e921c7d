"""What λ-equitune promises beyond equivariance: its limits, what λ reads, and that it learns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equivariant as eq
from tests.support.zoo import Anything, Micro, vit


class Constant(nn.Module):
    """λ ≡ a constant."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value = value

    def forward(self, x: Tensor) -> Tensor:
        return x.new_full((len(x),), self.value)


class OneHot(nn.Module):
    """λ = 1 for the view with the least entropy of its scores, found by looking at all views at once, else 0."""

    def __init__(self, order: int, proxy: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.order, self.proxy = order, proxy

    def forward(self, logits: Tensor) -> Tensor:
        losses = self.proxy(logits).unflatten(0, (self.order, -1))
        return (losses == losses.amin(0)).to(logits.dtype).flatten()


X = torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("group", ["C1", "C4", "D4", "channels3", "C4 x channel_cycle3"])
@pytest.mark.parametrize(("positive", "value"), [("none", 1.0), ("exp", 0.0), ("exp", 3.7)])
def test_constant_lambda_is_equitune_bit_for_bit(group: str, positive: Any, value: float) -> None:
    model = Micro()
    constant = eq.LambdaEquitune(model, group, network=Constant(value), positive=positive)
    assert torch.equal(constant(X), eq.Equitune(model, group)(X))


def test_a_fresh_lambda_is_equitune() -> None:
    features, head = eq.take_off_head(vit())
    fresh = eq.LambdaEquitune(features, "D4", head=head)
    assert sum(p.numel() for p in fresh.network.parameters()) == 16 * 100 + 100 + 100 * 100 + 100 + 100 + 1
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(fresh(x), eq.Equitune(nn.Sequential(features, head), "D4")(x))


@pytest.mark.parametrize("group", ["C4", "D4", "channels3"])
@pytest.mark.parametrize("proxy", [eq.entropy, eq.max_probability])
def test_one_hot_lambda_is_equizero_bit_for_bit(group: str, proxy: Any) -> None:
    model = Micro()
    one_hot = eq.LambdaEquitune(model, group, network=OneHot(eq.as_group(group).order, proxy), positive="none")
    assert torch.equal(one_hot(X), eq.Equizero(model, group, proxy=proxy)(X))
    assert not torch.equal(one_hot(X), eq.Equitune(model, group)(X))


def test_sharp_lambda_tends_to_canonicalisation() -> None:
    model, network = Micro(), Anything()
    network.gain.data.fill_(1e4)
    sharp = eq.LambdaEquitune(model, "C4", network=network, reads="input")
    torch.testing.assert_close(sharp(X), eq.Canonicaliser(model, "C4", score=network).eval()(X))


def test_lambda_reads_features_and_the_head_stands_inside_or_outside() -> None:
    features, head = nn.Sequential(Micro(6), nn.Tanh()), nn.Sequential(nn.Linear(6, 4), nn.Softmax(1))
    inside = eq.LambdaEquitune(features, "C4", head=head)
    outside = nn.Sequential(eq.LambdaEquitune(features, "C4", width=6), head)
    for wrapper in (inside, outside[0]):
        nn.init.normal_(wrapper.network.layers[-1].weight)
    outside[0].network.load_state_dict(inside.network.state_dict())
    z = features(eq.orbit("C4", X).flatten(0, 1))
    weights = inside.network(z).unflatten(0, (4, 3)).softmax(0)[..., None]
    torch.testing.assert_close(inside(X), (weights * head(z).unflatten(0, (4, 3))).sum(0))
    torch.testing.assert_close(outside(X), head((weights * z.unflatten(0, (4, 3))).sum(0)))


def test_lambda_alone_learns_to_prefer_the_readable_view() -> None:
    """The frozen model reads only upright images; training λ alone must make it right on turned ones."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(27, 6), nn.ReLU(), nn.Linear(6, 2))
    x = torch.randn(256, 3, 3, 3) * 0.1
    labels = torch.arange(256) % 2
    x[:, 0, 0] += 2  # a bright top row says which way is up
    x[:, 1, 1, 1] += labels * 4.0 - 2
    x[:, 2, 0, 0] += labels * 4.0 - 2
    optimizer = torch.optim.Adam(model.parameters(), lr=0.03)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
    model.requires_grad_(False)
    wrapper = eq.LambdaEquitune(nn.Sequential(*model[:3]), "C4", head=model[3])
    optimizer = torch.optim.Adam(wrapper.network.parameters(), lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(wrapper(x), labels)
        loss.backward()
        optimizer.step()
    before = nn.functional.cross_entropy(eq.Equitune(model, "C4")(x), labels)
    assert loss < 0.8 * before
    weights = wrapper.orbit_weights(x)
    assert weights[0].mean() > 0.5
