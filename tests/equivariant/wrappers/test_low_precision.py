"""Choices by pixels in bfloat16, float16 and under autocast are those of float32: no view ties that differs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf

import pytest
import torch
from torch import Tensor, nn

import equivariant as eq
from equivariant.parts.networks import wide_scores
from tests.support.zoo import Anything, Micro, seeded

#: values that all of these dtypes hold
X = torch.randint(256, (16, 3, 6, 6), generator=torch.Generator().manual_seed(7)) / 256
PRECISIONS = ["bfloat16", "float16", "autocast"]


@contextmanager
def lowered(wrapper: nn.Module, precision: str) -> Iterator[Tensor]:
    """Yield the images for a wrapper in that precision."""
    dtype = torch.float32 if precision == "autocast" else getattr(torch, precision)
    wrapper.to(dtype)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "autocast"):
        yield X.to(dtype)


@pytest.mark.parametrize("kind", [eq.AnytimeOrbit, eq.Canonicaliser])
@pytest.mark.parametrize("precision", PRECISIONS)
def test_one_view_of_an_image_is_chosen_whatever_the_precision(kind: type[eq.WeightedWrapper], precision: str) -> None:
    wrapper = seeded(lambda: kind(Micro(), "D4")).eval()
    if isinstance(wrapper, eq.AnytimeOrbit):
        wrapper.limit.fill_(inf)
    with lowered(wrapper, precision) as x:
        weights = wrapper.orbit_weights(x)
        assert ((weights > 0).sum(0) == 1).all()
        for g in range(8):
            moved = wrapper.orbit_weights(eq.act("D4", g, x))
            group = eq.as_group("D4")
            assert all(torch.equal(moved[h], weights[group.product(h, g)]) for h in range(8))
        alone = torch.cat([wrapper.orbit_weights(one) for one in x.split(1)], 1)
        assert torch.equal(alone, weights)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_limit_is_found_whatever_the_precision(precision: str) -> None:
    wrapper = seeded(lambda: eq.AnytimeOrbit(Micro(), "D4")).eval()
    with lowered(wrapper, precision) as x:
        found = wrapper.fit_limit(x, 3.0)
        assert 2.5 < found <= 3
        assert (wrapper.orbit_weights(x) > 0).sum(0).double().mean() == pytest.approx(found)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_detector_sees_few_views_whatever_the_precision(precision: str) -> None:
    wrapper = eq.EquivariantDetector(nn.Identity(), "D4", score=seeded(eq.ImageScore)).eval()
    with lowered(wrapper, precision) as x:
        assert sum(len(wrapper.chosen(one)) for one in x) < 1.2 * len(x)


def test_wide_scores_teach_narrow_weights_and_batch_norm_counts() -> None:
    network = nn.Sequential(seeded(eq.ImageScore), nn.Unflatten(0, (-1, 1)), nn.BatchNorm1d(1)).bfloat16().train()
    found = wide_scores(network, X.bfloat16())
    assert found.dtype == torch.float32
    found.square().sum().backward()
    assert all(p.grad is not None and p.grad.dtype == torch.bfloat16 for p in network.parameters())
    assert network[2].running_mean.dtype == torch.bfloat16
    assert network[2].num_batches_tracked == 1
    assert network[2].running_mean != 0


def test_a_sum_of_views_is_as_exact_as_their_mean() -> None:
    """Added one by one in bfloat16, the rest of each sum is lost."""
    wrapper = seeded(lambda: eq.AnytimeOrbit(Micro(), "D4", score=Anything())).eval()
    with lowered(wrapper, "bfloat16") as x:
        whole = eq.Equitune(wrapper.model, "D4")(x)
        assert torch.equal(wrapper(x), whole)
