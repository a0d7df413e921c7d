"""Ridge regression from sums: equal to the regression on all the rows, whatever the order they came in."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import Ridge
from torch.nn.functional import one_hot

from continual.export import numpy_sums
from continual.methods.ridge import RidgeLearner
from continual.seeding import generator
from continual.statistics.fields import check, pack, unpack
from continual.statistics.penalties import PENALTIES, _by_images, choose_penalty
from continual.statistics.ridge import (
    SHARES,
    GramStatistics,
    Standardised,
    crossed_of,
    expected_best,
    lower_triangle,
    products_of,
    solve,
)


def rows(count: int, width: int, classes: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    labels = torch.cat([torch.arange(classes), torch.randint(classes, (count - classes,), generator=draw)])
    return 3 + torch.randn(count, width, generator=draw) * (1 + torch.arange(width)), labels


@given(st.integers(0, 1000), st.integers(1, 3), st.floats(1e-3, 1e3))
def test_sums_of_parts_solve_like_scikit_learn_on_the_whole(seed: int, old: int, strength: float) -> None:
    x, y = rows(30, 4, 4, seed)
    first = y < old
    sums = GramStatistics.of(x[first], y[first], old).plus(GramStatistics.of(x[~first], y[~first], 4))
    standard = ((x - x.mean(0)) / x.std(0, correction=0)).double()
    for inputs, standardise in ((standard, True), (x.double(), False)):
        reference = Ridge(alpha=strength, fit_intercept=standardise, solver="cholesky")
        expected = reference.fit(inputs.numpy(), one_hot(y, 4).double().numpy()).predict(inputs.numpy())
        ours = solve(sums, strength, standardise=standardise)(x.double())
        assert torch.allclose(ours, torch.from_numpy(expected), atol=1e-6)


def test_a_feature_that_never_varies_is_harmless() -> None:
    x, y = rows(20, 3, 2, 0)
    x[:, 1] = 5.0
    with_it = solve(GramStatistics.of(x, y, 2), 1.0, standardise=True)(x)
    without = solve(GramStatistics.of(x[:, [0, 2]], y, 2), 1.0, standardise=True)(x[:, [0, 2]])
    assert torch.isfinite(with_it).all()
    assert torch.allclose(with_it, without, atol=1e-4)


def judged(x: torch.Tensor, y: torch.Tensor, strength: float) -> float:
    """Return the generalised cross-validation of a ridge on standardised rows, from its hat matrix."""
    x = ((x - x.mean(0)) / x.std(0, correction=0)).double()
    hat = x @ torch.linalg.inv(x.mT @ x + strength * torch.eye(x.shape[1]).double()) @ x.mT + 1 / len(x)
    left = torch.eye(len(x)).double() - hat
    return float((left @ one_hot(y).double()).square().mean() / (left.trace() / len(x)) ** 2)


@given(st.integers(0, 1000), st.sampled_from([8, 20, 60]))
def test_the_strength_is_that_of_least_cross_validated_error(seed: int, count: int) -> None:
    x, y = rows(count, 6, 4, seed)
    chosen = expected_best(GramStatistics.of(x[:5], y[:5], 4).plus(GramStatistics.of(x[5:], y[5:], 4)))
    # The eigenvalues' mean is the number of images.
    tried = {count * strength: judged(x, y, count * strength) for strength in SHARES}
    assert judged(x, y, chosen) == pytest.approx(min(tried.values()), rel=1e-6)
    assert any(chosen == pytest.approx(strength) for strength in tried)


def test_a_penalty_beyond_a_rise_of_the_estimate_is_not_believed() -> None:
    """Differences of images nearly alike have no class in them, so under weak penalties the estimate falls again."""
    draw = torch.Generator().manual_seed(6)
    scale = torch.logspace(0, -1.5, 64)
    means = 0.5 * torch.randn(5, 64, generator=draw) * scale
    y = torch.arange(52) % 5
    x = means[y] + torch.randn(52, 64, generator=draw) * scale
    turn = torch.linalg.qr(torch.randn(64, 64, generator=draw)).Q
    x = torch.cat([x @ turn, x[:8] @ turn + 3e-3 * torch.randn(8, 64, generator=torch.Generator().manual_seed(105))])
    sums = GramStatistics.of(x, torch.cat([y, y[:8]]), 5)
    truth = torch.arange(500) % 5
    asked = ((means[truth] + torch.randn(500, 64, generator=draw) * scale) @ turn).double()

    def accuracy(penalty: float) -> float:
        return float((solve(sums, penalty, standardise=True)(asked).argmax(1) == truth).double().mean())

    chosen = expected_best(sums)
    assert accuracy(chosen) > accuracy(60 * SHARES[-1]) + 0.2
    values, directions = torch.linalg.eigh(products_of(sums, *sums.moments()))
    explained = (directions.mT @ crossed_of(sums, *sums.moments())).square().sum(1)
    total = 60 - float(sums.counts.square().sum()) / 60
    assert numpy_sums.best_penalty(values.numpy(), explained.numpy(), total, 59) == pytest.approx(chosen)


@pytest.mark.parametrize("choose", ["sums", "a fifth"])
def test_noise_asks_for_a_strong_ridge_and_signal_for_a_weak_one(choose: str) -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(60, 20, generator=draw)
    clean, noise = (x[:, 0] > 0).long(), torch.randint(2, (60,), generator=draw)

    def chosen(labels: torch.Tensor) -> float:
        if choose == "sums":
            return expected_best(GramStatistics.of(x, labels, 2))
        return choose_penalty(None, x, labels, 2, standardise=True, generator=torch.Generator().manual_seed(1))

    assert chosen(noise) >= (10 if choose == "sums" else 100) * chosen(clean)


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("noise", [0.1, 3.0, 30.0])
def test_a_penalty_is_the_same_by_few_images_and_by_their_sums(balance: float, noise: float) -> None:
    draw = torch.Generator().manual_seed(0)
    y = torch.tensor([0] * 20 + [1] * 10 + [2] * 5)
    x = torch.relu(torch.randn(3, 50, generator=draw)[y] + noise * torch.randn(35, 50, generator=draw))
    order = torch.randperm(35, generator=torch.Generator().manual_seed(1))
    held, kept = order[:7], order[7:]
    sums = GramStatistics.of(x[kept], y[kept], 3)
    weighted, weights = sums.balanced(balance), sums.image_weights(balance)
    answers = {p: solve(weighted, p, standardise=False)(x[held].double()) for p in PENALTIES}
    truth = torch.nn.functional.one_hot(y[held], 3)
    errors = {p: float(((found - truth).square() * weights[y[held], None]).mean()) for p, found in answers.items()}
    by_images = dict(_by_images(x[held].double(), x[kept].double(), y[kept], weights))
    assert len(by_images) >= 14
    for penalty, found in by_images.items():
        if penalty > 1e-4:  # weaker ones are solved to fewer digits by sums
            assert torch.allclose(found, answers[penalty], atol=1e-7)
    given = {"standardise": False, "generator": torch.Generator().manual_seed(1), "balance": balance}
    assert choose_penalty(None, x, y, 3, **given) == min(errors, key=lambda p: errors[p])  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 4])
def test_fewer_than_five_images_are_enough(count: int) -> None:
    x, y = rows(count, 3, 1, 0)
    sums = GramStatistics.of(x, y, 1)
    on_a_fifth = choose_penalty(None, x, y, 1, standardise=True, generator=torch.Generator())
    for strength in (on_a_fifth, expected_best(sums)):
        assert strength > 0
        assert torch.isfinite(solve(sums, strength, standardise=True)(x)).all()


def test_a_triangle_holds_all_of_the_products() -> None:
    x, y = rows(12, 5, 3, 0)
    sums = GramStatistics.of(x, y, 3)
    whole = x.double().mT @ x.double()
    assert len(sums.triangle) == 15
    assert torch.allclose(sums.gram(), whole)
    assert torch.equal(unpack(GramStatistics, *pack(sums)).gram(), sums.gram())
    assert torch.equal(lower_triangle(sums.gram()), sums.triangle)


def test_the_method_solves_with_the_strength_that_all_its_sums_ask_for(backbone: Any, blobs: Any) -> None:
    learner = RidgeLearner(backbone)
    for classes in ([0, 1], [2, 3]):
        learner.learn(*blobs(classes, 4))
    state = learner.state
    assert state.sums is not None
    assert state.head is not None
    assert float(state.sums.counts.sum()) == 16
    best = Standardised.of(state.sums, expected_best(state.sums)).solve(state.sums)
    assert torch.equal(state.head.weight, best.weight)
    assert not torch.allclose(best.weight, solve(state.sums, 1.0, standardise=True).weight)


@pytest.mark.parametrize("part", ["total", "triangle", "targets", "counts", "scatter"])
def test_parts_of_another_width_are_refused_with_their_shapes(part: str) -> None:
    sums = GramStatistics.of(torch.randn(9, 4, generator=generator(0)), torch.arange(9) % 3, 3, directions=2)
    check(sums, 3)
    own = getattr(sums, part)
    # Of targets and scatter, whose number of classes is checked elsewhere, the width differs.
    spoiled = torch.cat([own, own[-1:]]) if own.ndim < 3 else own[..., 1:]
    with pytest.raises(ValueError, match="is of shape|holds 4 classes"):
        check(replace(sums, **{part: spoiled}), None if part != "total" else 3)
