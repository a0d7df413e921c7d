"""The mean leverage of learned images, from what is kept of them: the same as from all their products."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from continual.backbones.loading import Backbone
from continual.learning.state import learned
from continual.methods import method
from continual.methods.bases import mean_leverage as module
from continual.methods.bases.mean_leverage import mean_leverage
from continual.statistics.triangles import times

Blobs = Callable[..., tuple[Tensor, list[int]]]


@pytest.mark.parametrize("balance", [0.0, 0.6, 1.0])
def test_it_is_that_of_all_products(backbone: Backbone, blobs: Blobs, balance: float) -> None:
    """Also where a few images of a class weigh as many of another, of other sums, and without a class."""
    learner = method("strata")(backbone, balance=balance)
    learner.learn(*blobs([0, 1, 2], 9))
    before = learner.state
    learner.learn(*blobs([3], 2))
    learner.correct(blobs([0], 3)[0], 0)
    for state in (learner.state, learner.state.without(1)):
        for sums in (learned(state.sums), learned(before.sums)):
            certain, count = learned(state.certainty), sums.counts.sum()
            weight, bias = certain.errors.weight.double(), certain.errors.bias.double()
            squares = (weight * (sums.gram() @ weight)).sum() + 2 * (sums.total @ weight) @ bias
            exact = squares / count + bias.square().sum() + certain.share
            torch.testing.assert_close(mean_leverage(state, sums), exact, rtol=1e-6, atol=0)


def test_it_is_that_of_all_products_less_those_of_the_newest(
    backbone: Backbone, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not where others came between: then all products are looked at."""
    learner = method("strata")(backbone)
    learner.learn(*blobs([0, 1, 2], 9))
    first = learned(learner.state.sums)
    for label in (3, 4):
        learner.learn(*blobs([label], 2))
        certain, count = learned(learner.state.certainty), first.counts.sum()
        weight, bias = certain.errors.weight.double(), certain.errors.bias.double()
        squares = (weight * (first.gram() @ weight)).sum() + 2 * (first.total @ weight) @ bias
        exact = squares / count + bias.square().sum() + certain.share
        assert learner.state.newest is not None
        monkeypatch.setattr(module, "times", None if label == 3 else times)  # not of the sums before the newest
        torch.testing.assert_close(mean_leverage(learner.state, first), exact, rtol=1e-6, atol=0)
    learner.learn(*blobs([5], 99))
    assert learner.state.newest is None, "of many images it would take as long as of all products"
