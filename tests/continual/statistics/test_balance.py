"""Classes that weigh alike whatever their number of images: sums, leaving out, and the methods that answer by them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from continual.backbones.loading import Backbone
from continual.methods import method
from continual.methods.ranpac import RanPACLearner
from continual.methods.strata import StrataLearner
from continual.seeding import generator
from continual.statistics.penalties import PENALTIES, penalty_of
from continual.statistics.ridge import GramStatistics, Standardised, solve
from continual.testing import tiny_backbone
from continual.uncertainty.certainty import certainty
from continual.uncertainty.left_out import Rows, t_left_out_weighted

Blobs = Callable[..., tuple[Tensor, list[int]]]
COUNTS = (3, 8, 2, 12)


def uneven(seed: int = 0, counts: tuple[int, ...] = COUNTS, width: int = 7) -> tuple[Tensor, Tensor]:
    y = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    means = 2 * torch.randn(len(counts), width, generator=generator(9)).double()
    return means[y] + torch.randn(len(y), width, generator=generator(seed)).double(), y


def test_nothing_is_weighed_at_zero_nor_where_counts_are_even() -> None:
    sums = GramStatistics.of(*uneven(), 4)
    assert sums.balanced(0.0) is sums
    even = GramStatistics.of(*uneven(counts=(5, 5, 5)), 3)
    assert even.balanced(1.0) is even


def test_weights_are_those_of_the_definition() -> None:
    """w_c = n n_c^(1 - a) / sum of n_j^(1 - a); products are the scatter within classes and that of weighted means."""
    x, y = uneven()
    sums, counts = GramStatistics.of(x, y, 4), torch.tensor(COUNTS).double()
    for exponent in (0.3, 1.0):
        found, weights = sums.balanced(exponent), counts ** (1 - exponent)
        weights = weights * counts.sum() / weights.sum()
        means = torch.stack([x[y == c].mean(0) for c in range(4)])
        within = (x - means[y]).mT @ (x - means[y])
        torch.testing.assert_close(found.counts, weights)
        torch.testing.assert_close(found.gram(), within + means.mT @ (weights[:, None] * means))
        torch.testing.assert_close(found.targets, means.mT * weights)
        torch.testing.assert_close(found.total, means.mT @ weights)


def test_a_class_seen_twice_weighs_as_once() -> None:
    """All images of a class doubled: where classes weigh alike, their means and shares stay."""
    x, y = uneven()
    twice = torch.cat([torch.arange(len(y)), (y == 3).nonzero().squeeze(1)])
    one, two = (GramStatistics.of(x[rows], y[rows], 4).balanced(1.0) for rows in (torch.arange(len(y)), twice))
    torch.testing.assert_close(one.targets / one.counts, two.targets / two.counts)
    torch.testing.assert_close(one.counts / one.counts.sum(), two.counts / two.counts.sum())


@pytest.mark.parametrize("exponent", [0.5, 1.0])
def test_left_out_is_solving_without_the_image_by_the_same_weights(exponent: float) -> None:
    x, y = uneven()
    seen = GramStatistics.of(x, y, 4)
    sums = seen.balanced(exponent)
    system = Standardised.of(sums, 3.0)
    found = t_left_out_weighted(seen, sums, system, system.solve(sums), Rows(x, y))[0][0]
    z, w = x / system.deviation, sums.counts
    for i in range(len(y)):
        rest = torch.arange(len(y)) != i
        means = torch.stack([z[rest & (y == c)].mean(0) for c in range(4)])
        mean = (w[:, None] * means).sum(0) / w.sum()
        within = (z[rest] - means[y[rest]]).mT @ (z[rest] - means[y[rest]])
        apart = means - mean
        inverse = torch.linalg.inv(within + apart.mT @ (w[:, None] * apart) + 3 * torch.eye(7).double())
        value = w / w.sum() + (z[i] - mean) @ inverse @ (w[:, None] * apart).mT
        leverage = 1 / w.sum() + (z[i] - mean) @ inverse @ (z[i] - mean)
        torch.testing.assert_close(found[i], value / leverage.sqrt(), rtol=1e-9, atol=1e-9)


def test_probabilities_hold_where_classes_are_as_likely() -> None:
    """Learned with 3 or 40 images a class, asked as often about each: weighed, the log loss is less."""
    counts = tuple(3 if c % 2 else 40 for c in range(12))
    losses, alarms = {0.0: 0.0, 1.0: 0.0}, 0.0
    for seed in range(3):
        x, y = uneven(seed, counts, 30)
        fresh, truth = uneven(50 + seed, (40,) * 12, 30)
        x, fresh = (v + 2.5 * torch.randn(v.shape, generator=generator(seed, len(v))).double() for v in (x, fresh))
        seen = GramStatistics.of(x, y, 12)
        for exponent in losses:
            sums = seen.balanced(exponent)
            system = Standardised.of(sums, 10.0)
            head = system.solve(sums)
            known = certainty(seen, system, head, (x, y), None, generator(1), exponent)
            assert float(known.images) == pytest.approx(len(y))
            likely, p_value = known.judge(head(fresh.float()), fresh.float())
            assert likely is not None
            assert p_value is not None
            losses[exponent] -= float(likely[range(len(truth)), truth].log().mean()) / 3
        alarms += float((p_value <= 0.1).float().mean()) / 3
    assert losses[1.0] < 0.9 * losses[0.0]
    assert alarms == pytest.approx(0.1, abs=0.06)


@pytest.mark.parametrize("name", ["strata", "ridge", "ranpac"])
def test_a_learned_file_answers_by_the_weights_that_are_asked_for(name: str, blobs: Blobs, tmp_path: Path) -> None:
    """As one that was learned with them, order and parts aside; and by its own again."""
    quick: dict[str, Any] = {"epochs": 0, "projection": 40} if name == "ranpac" else {}
    frozen = tiny_backbone()
    learner, other = (method(name)(frozen, **quick, balance=balance) for balance in (0.0, 1.0))
    for each in (learner, other):
        each.learn(*blobs([0, 1], 2))
        each.learn(*blobs([0, 2], 8))
    learner.save(tmp_path / "model.safetensors")
    images, loaded = blobs([0, 1, 2], 4, 1)[0], method(name).load(tmp_path / "model.safetensors", frozen)
    before = learner.predict(images)
    found = loaded.variant(balance=1.0).predict(images)
    assert not torch.allclose(found.scores, before.scores, atol=1e-4)
    if name != "ranpac":  # its penalty was chosen with the other weights
        torch.testing.assert_close(found.scores, other.predict(images).scores, atol=1e-5, rtol=0)
    assert torch.equal(loaded.predict(images).scores, before.scores)
    again = loaded.variant(balance=1.0)
    again.save(tmp_path / "again.safetensors")
    kept = method(name).load(tmp_path / "again.safetensors", frozen)
    assert kept.settings.balance == 1
    assert torch.equal(kept.predict(images).scores, found.scores)


def test_the_published_method_weighs_as_published_and_ours_alike() -> None:
    assert RanPACLearner.settings_type().balance == 0
    assert StrataLearner.settings_type().balance == 1


@pytest.mark.parametrize("penalty", [PENALTIES[6], 1.0, PENALTIES[12]])
def test_a_penalty_is_found_again_in_a_head(penalty: float) -> None:
    sums = GramStatistics.of(*uneven(), 4)
    assert penalty_of(sums, solve(sums, penalty, standardise=False)) == penalty


def test_few_images_of_a_class_are_found_more_often(backbone: Backbone, blobs: Blobs) -> None:
    found = {}
    (many, names), (few, odd) = blobs([0, 1, 2], 20, 3), blobs([3], 2)
    for balance in (0.0, 1.0):
        learner = StrataLearner(backbone, balance=balance)
        learner.learn(torch.cat([many, few]), [*names, *odd])
        found[balance] = learner.predict(blobs([3], 30, 5)[0]).scores[:, 3].mean()
    assert found[1.0] > found[0.0]
