"""The adapter's equation, its identity at birth, and one product for a batch of different stacks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from continual.adapters.bank import TrainableAdapter, grouped, per_image, shared, stacked
from continual.adapters.base import Shapes
from continual.adapters.bottleneck import Bottleneck
from continual.seeding import generator

sizes = st.integers(1, 5)


def new(depth: int, width: int, r: int, draw: torch.Generator | None = None, **settings: float) -> TrainableAdapter:
    kind = Bottleneck(bottleneck=r, **settings)
    return TrainableAdapter(kind, kind.new(Shapes(depth, width), draw))


def random_stack(seed: int, depth: int = 2, width: int = 6, r: int = 3) -> dict[str, Tensor]:
    g = generator(seed, "stack")
    return {name: torch.randn(t.shape, generator=g) for name, t in new(depth, width, r).weights().items()}


@given(depth=sizes, width=sizes, r=sizes, seed=st.integers(0, 99))
def test_a_fresh_stack_adds_nothing(depth: int, width: int, r: int, seed: int) -> None:
    stack = new(depth, width, r, generator(seed))
    h = torch.randn(2, 3, width, generator=generator(seed, "h"))
    for masks in (None, stack.masks(2, 3, generator(seed, "noise"))):
        adapters = stack.bind(masks)
        assert all(torch.equal(adapters(block, h), torch.zeros_like(h)) for block in range(depth))


def test_a_stack_for_vit_base_has_the_published_number_of_parameters() -> None:
    assert sum(p.numel() for p in new(depth=12, width=768, r=16).parameters()) == 304_320


def test_the_initial_weights_are_kaiming_uniform_and_zero() -> None:
    weights = new(4, 64, 16, generator(0)).weights()
    bound = 64**-0.5
    assert weights["down_weight"].abs().max() <= bound
    assert weights["down_weight"].std() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert not any(weights[name].any() for name in ("down_bias", "up_weight", "up_bias"))
    again = new(4, 64, 16, generator(0)).weights()
    assert torch.equal(weights["down_weight"], again["down_weight"])


def test_the_bottleneck_is_the_equation_of_the_paper() -> None:
    weights = random_stack(0)
    down, up = nn.Linear(6, 3), nn.Linear(3, 6)
    down.weight.data, down.bias.data = weights["down_weight"][1], weights["down_bias"][1]
    up.weight.data, up.bias.data = weights["up_weight"][1], weights["up_bias"][1]
    h = torch.randn(2, 5, 6, generator=generator(1))
    torch.testing.assert_close(shared(Bottleneck(adapter_scale=0.1), weights)(1, h), 0.1 * up(torch.relu(down(h))))


@given(seed=st.integers(0, 99), batch=st.integers(1, 6), stacks=st.integers(1, 4), data=st.data())
def test_a_stack_of_its_own_for_each_image_equals_one_image_at_a_time(
    seed: int, batch: int, stacks: int, data: st.DataObject
) -> None:
    bank = [random_stack(seed * 7 + k) for k in range(stacks)]
    chosen = data.draw(st.lists(st.integers(0, stacks - 1), min_size=batch, max_size=batch))
    h = torch.randn(batch, 4, 6, generator=generator(seed, "h"))
    together = per_image(Bottleneck(adapter_scale=0.1), stacked(bank), torch.tensor(chosen))
    order = torch.tensor(chosen).argsort(stable=True)
    in_groups = grouped(Bottleneck(adapter_scale=0.1), stacked(bank), torch.tensor(chosen)[order])
    for block in (0, 1):
        torch.testing.assert_close(in_groups(block, h[order]), together(block, h)[order])
        alone = [shared(Bottleneck(adapter_scale=0.1), bank[k])(block, h[i : i + 1]) for i, k in enumerate(chosen)]
        torch.testing.assert_close(together(block, h), torch.cat(alone))


def test_dropout_happens_with_masks_only_and_keeps_the_mean() -> None:
    stack = new(2, 6, 8, adapter_scale=1.0, adapter_dropout=0.4)
    stack.load_state_dict(random_stack(0, r=8))
    h = torch.randn(1, 1, 6, generator=generator(0)).expand(20_000, 1, 6)
    with torch.no_grad():
        still = stack.bind()(0, h)
        noisy = stack.bind(stack.masks(20_000, 1, generator(0, "noise")))(0, h)
        again = stack.bind(stack.masks(20_000, 1, generator(0, "noise")))(0, h)
    assert torch.equal(still, shared(stack.kind, stack.frozen())(0, h))
    assert torch.equal(noisy, again)
    assert noisy.std(0).max() > 0.1
    torch.testing.assert_close(noisy.mean(0), still.mean(0), atol=0.05, rtol=0.05)
    assert new(2, 6, 8, adapter_dropout=0.0).masks(4, 1, generator(0)) is None


def test_dropout_acts_on_the_bottleneck() -> None:
    ones = torch.ones(1, 4, 4)
    eye, zero = torch.eye(4), torch.zeros(4)
    keep = torch.eye(4)[None]
    weights = {"down_weight": eye, "down_bias": zero, "up_weight": eye, "up_bias": zero}
    out = Bottleneck(adapter_scale=1.0, adapter_dropout=0.5).block(weights, ones, keep)
    assert torch.equal(out, 2 * keep)


def test_later_training_does_not_reach_a_frozen_copy() -> None:
    stack = new(2, 6, 3, generator(0))
    copy, live = stack.frozen(), stack.weights()
    with torch.no_grad():
        stack.up_bias += 1
    assert live["up_bias"].all()
    assert not copy["up_bias"].any()
    assert not any(tensor.requires_grad for tensor in copy.values())


def test_gradients_reach_every_tensor_of_the_stack() -> None:
    stack = new(2, 6, 3, generator(0))
    stack.load_state_dict(random_stack(0))
    adapters, h = stack.bind(), torch.randn(2, 3, 6, generator=generator(1))
    (adapters(0, h).sum() + adapters(1, h).sum()).backward()
    assert all(p.grad is not None and p.grad.any() for p in stack.parameters())
