"""What the pruned orbit promises beyond equivariance: what it finishes, and what it holds."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import Tensor, nn

import equivariant as eq
from tests.support.zoo import Micro, Whole, vit

X = torch.randn(3, 3, 6, 6, generator=torch.Generator().manual_seed(7))


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_a_pruned_orbit_finishes_the_best_elements_only(keep: int) -> None:
    model = vit(depth=4)
    wrapper = eq.PrunedOrbit(eq.StagedViT(model, blocks=1), "D4", keep=keep).eval()
    nn.init.normal_(wrapper.score.layers[-1].weight)
    passes = [0] * 4
    for i, block in enumerate(model.blocks):
        block.register_forward_pre_hook(lambda module, args, i=i: passes.__setitem__(i, passes[i] + len(args[0])))
    x = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        answer = wrapper(x)
    assert passes == [16, 2 * keep, 2 * keep, 2 * keep]
    weights = wrapper.orbit_weights(x)
    assert ((weights > 0).sum(0) == keep).all()
    views = model(eq.orbit("D4", x).flatten(0, 1)).unflatten(0, (8, 2))
    torch.testing.assert_close(answer, (weights[..., None] * views).sum(0))
    eq.assert_equivariant(wrapper, "D4", x)


def test_a_pruned_orbit_that_keeps_everything_is_lambda_equitune() -> None:
    wrapper = eq.PrunedOrbit(eq.StagedPair(Micro().first, Micro().second, 4), "C4", keep=4)
    nn.init.normal_(wrapper.score.layers[-1].weight)
    training = wrapper.train()(X)
    torch.testing.assert_close(wrapper.eval()(X), training)
    wrapper.keep = 1
    torch.testing.assert_close(wrapper.train()(X), training)
    assert not torch.allclose(wrapper.eval()(X), training, rtol=1e-3)


class Coarse(nn.Module):
    """A score that ties often, to within a few roundings: the first pixel, made coarse."""

    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0, 0, 0].round() + 1e-6 * x[:, 0, 0, 1]


@pytest.mark.parametrize("keep", [1, 2, 5])
def test_a_pruned_orbit_in_chunks_holds_only_what_can_still_win(keep: int) -> None:
    x = torch.randn(40, 3, 6, 6)
    wrapper = eq.PrunedOrbit(Whole(Micro()), "D4", keep=keep, score=Coarse()).eval()
    rows, states, _ = wrapper._early(x)
    answer, weights = wrapper.answer(x)
    assert torch.equal(rows, (weights > 0).flatten().nonzero().squeeze(1))
    assert torch.equal(states, eq.orbit("D4", x).flatten(0, 1)[rows])
    assert ((weights > 0).sum(0) > keep).any(), "no ties, so this test shows little"
    for wrapper.chunk in (1, 3):
        again, more, _ = wrapper._early(x)
        assert torch.equal(again, rows)
        assert torch.equal(more, states)
        torch.testing.assert_close(wrapper(x), answer)
    wrapper.train()
    assert len(wrapper._early(x)[0]) == 8 * 40, "training finishes all"


def test_a_pruned_orbit_lets_go_of_the_images_before_the_blocks_need_room() -> None:
    model, views, alive = vit(), [], []
    model.patch_embed.register_forward_pre_hook(lambda module, args: views.append(weakref.ref(args[0])))
    model.blocks[0].register_forward_pre_hook(lambda module, args: alive.append(views[-1]() is not None))
    with torch.no_grad():
        eq.PrunedOrbit(eq.StagedViT(model, blocks=1), "C4", chunk=1).eval()(torch.randn(2, 3, 16, 16))
    assert alive[-4:] == [False] * 4
