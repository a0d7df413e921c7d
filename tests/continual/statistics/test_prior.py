"""Weights that a regression is drawn to: the closed form, its ends, and what is left out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from continual.statistics.prior import Prior
from continual.statistics.ridge import SHARES, GramStatistics, Standardised, expected_best
from continual.uncertainty.left_out import t_left_out

N, D, C = 30, 6, 3


def given(images: int = N) -> tuple[Tensor, Tensor, GramStatistics, Tensor]:
    """Features (n, D), class indices, their sums, and directions (D, C) that say something of the classes."""
    draw = torch.Generator().manual_seed(0)
    means = 2 * torch.randn(C, D, generator=draw, dtype=torch.float64)
    y = torch.arange(images) % C
    x = 5 + means[y] * torch.arange(1, D + 1) + 3 * torch.randn(images, D, generator=draw, dtype=torch.float64)
    return x, y, GramStatistics.of(x, y, C), means.mT + 0.5 * torch.randn(D, C, generator=draw, dtype=torch.float64)


def by_hand(x: Tensor, y: Tensor, wanted: Tensor, penalty: float, mean: Tensor, deviation: Tensor) -> np.ndarray:
    """Weights (D, C) of standardised features and, last, the free bias (C,): argmin |z W + b - y|^2 + p |W - W_0|^2."""
    z = np.column_stack([((x - mean) / deviation).numpy(), np.ones(len(x))])
    penalties = np.diag([*[penalty] * D, 0.0])
    drawn_to = np.vstack([wanted.numpy(), np.zeros(C)])
    return np.linalg.solve(z.T @ z + penalties, z.T @ np.eye(C)[y.numpy()] + penalties @ drawn_to)


@pytest.mark.parametrize("penalty", [0.1, 10.0, 1e3])
def test_it_is_the_closed_form(penalty: float) -> None:
    x, y, sums, directions = given()
    system = Standardised.of(sums, penalty)
    head = Prior(directions, 0.2).solve(system, sums)
    wanted = by_hand(x, y, 0.2 * system.deviation[:, None] * directions, penalty, system.mean, system.deviation)
    z = (x - system.mean) / system.deviation
    np.testing.assert_allclose(head(x).numpy(), z.numpy() @ wanted[:-1] + wanted[-1], rtol=1e-9, atol=1e-9)


def test_it_holds_for_sums_in_which_classes_weigh_alike() -> None:
    x, y, _, directions = given()
    kept = (y != 0) | (torch.arange(N) < 6)
    sums = GramStatistics.of(x[kept], y[kept], C).balanced(1.0)
    system = Standardised.of(sums, 5.0)
    head = Prior(directions, 0.3).solve(system, sums)
    plain = system.solve(sums)
    drawn_to = 0.3 * directions * system.deviation[:, None]
    more = torch.cholesky_solve(5.0 * drawn_to, system.lower) / system.deviation[:, None]
    torch.testing.assert_close(head.weight, plain.weight + more)


def test_without_images_it_is_the_prior_and_with_many_it_is_gone() -> None:
    x, _, sums, directions = given()
    strong = Standardised.of(sums, 1e9)
    head = Prior(directions, 1.0).solve(strong, sums)
    torch.testing.assert_close(head(x), (x - x.mean(0)) @ directions + sums.counts / N, rtol=1e-4, atol=1e-4)
    weak = Standardised.of(sums, 1e-9)
    torch.testing.assert_close(Prior(directions, 1.0).solve(weak, sums)(x), weak.solve(sums)(x), rtol=1e-5, atol=1e-6)
    assert torch.equal(Prior(directions, 0.0).solve(strong, sums).weight, strong.solve(sums).weight)


@pytest.mark.parametrize("penalty", [1.0, 50.0])
@pytest.mark.parametrize("ignored", [False, True])
def test_its_length_leaves_the_smallest_residuals(penalty: float, ignored: bool) -> None:
    x, y, sums, directions = given()
    rows = torch.ones(2, D, dtype=torch.float64).tril() * 7 if ignored else None
    system = Standardised.of(sums, penalty, rows)
    prior = Prior(directions)
    best = prior.length(system, sums, prior.standardised(system.deviation))

    def residual(scale: float) -> float:
        return float((Prior(directions, scale).solve(system, sums)(x) - one_hot(y, C)).square().sum())

    assert best > 0
    torch.testing.assert_close(prior.solve(system, sums)(x), Prior(directions, best).solve(system, sums)(x))
    assert residual(best) < min(residual(0.99 * best), residual(1.01 * best), residual(0.0))


def test_directions_that_say_the_opposite_count_for_nothing() -> None:
    _, _, sums, directions = given()
    system = Standardised.of(sums, 50.0)
    assert torch.equal(Prior(-directions).solve(system, sums).weight, system.solve(sums).weight)


@pytest.mark.parametrize("scale", [0.05, None])
def test_the_penalty_has_the_least_expected_error(scale: float | None) -> None:
    x, y, sums, directions = given(12)
    prior, errors = Prior(directions, scale), {}
    plain = Standardised.of(sums, 0.0)
    values = torch.linalg.eigvalsh(plain.lower @ plain.lower.mT)
    for share in SHARES:
        penalty = share * float(values.mean())
        free = 11 - float((values / (values + penalty)).sum())
        head = prior.solve(Standardised.of(sums, penalty), sums)
        errors[penalty] = float((head(x) - one_hot(y, C)).square().sum()) / free**2
    assert prior.expected_best(sums) == pytest.approx(min(errors, key=lambda p: errors[p]))
    assert Prior(directions, 0.0).expected_best(sums) == pytest.approx(expected_best(sums))


def test_left_out_is_solving_without_the_image() -> None:
    x, y, sums, directions = given(12)
    system = Standardised.of(sums, 10.0)
    head = Prior(directions, 0.2).solve(system, sums)
    h = system.white(x).square().sum(1) + 1 / 12
    got = t_left_out(head(x), h[:, None], one_hot(y, C))
    drawn_to = 0.2 * system.deviation[:, None] * directions
    for i in range(12):
        rest = torch.arange(12) != i
        found = by_hand(x[rest], y[rest], drawn_to, 10.0, system.mean, system.deviation)
        value = ((x[i] - system.mean) / system.deviation).numpy() @ found[:-1] + found[-1]
        without = h[i] / (1 - h[i])
        np.testing.assert_allclose(got[i].numpy() * float(without) ** 0.5, value, rtol=1e-8)
