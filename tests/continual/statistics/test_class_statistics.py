"""Class statistics: merging equals fitting all images, few images are valid, samples have the moments."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from continual.seeding import generator
from continual.statistics.class_statistics import Centroids, ClassStatistics, Diagonal, Full, Kind, LowRank, Shrunk, fit
from continual.statistics.fields import pack, unpack

KINDS = get_args(Kind)
WIDTH = 5
counts = st.integers(1, 12)
seeds = st.integers(0, 999)


def features(count: int, seed: int, width: int = WIDTH, scale: float = 1.0) -> Tensor:
    g = generator(seed, "features")
    mix = torch.randn(width, width, generator=g)
    return scale * (torch.randn(count, width, generator=g) @ mix + torch.randn(width, generator=g))


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_the_mean_and_the_spread_are_those_of_numpy(kind: Kind) -> None:
    x = features(40, 0)
    found = fit(x, kind, components=WIDTH)
    close(found.mean, x.mean(0))
    covariance = torch.from_numpy(np.cov(x.numpy().T)).float()
    if isinstance(found, Full):
        close(found.covariance, covariance)
    elif isinstance(found, LowRank):
        close(found.factor @ found.factor.T + found.rest.diag(), covariance)
    elif isinstance(found, Diagonal):
        close(found.variance, covariance.diagonal())


@pytest.mark.parametrize("kind", ["full", "shrunk", "diagonal"])
@given(m=counts, n=counts, seed=seeds)
def test_merging_equals_fitting_the_union(kind: Kind, m: int, n: int, seed: int) -> None:
    a, b = features(m, seed), features(n, seed + 1)
    merged, union = fit(a, kind).merged(fit(b, kind)), fit(torch.cat([a, b]), kind)
    assert merged.count == union.count == m + n
    assert type(merged) is type(union)
    for name, tensor in pack(union)[0].items():
        close(pack(merged)[0][name], tensor)


@given(m=counts, n=counts, seed=seeds)
def test_merging_low_rank_is_exact_within_the_rank(m: int, n: int, seed: int) -> None:
    a, b = features(m, seed), features(n, seed + 1)
    merged = fit(a, "low_rank", WIDTH).merged(fit(b, "low_rank", WIDTH))
    assert isinstance(merged, LowRank)
    full = fit(torch.cat([a, b]), "full")
    close(merged.mean, full.mean)
    close(merged.factor @ merged.factor.T + merged.rest.diag(), full.covariance_matrix())


@given(m=st.integers(2, 12), n=st.integers(2, 12), seed=seeds, rank=st.integers(1, 3))
def test_merging_low_rank_keeps_every_variance_whatever_the_rank(m: int, n: int, seed: int, rank: int) -> None:
    a, b = features(m, seed), features(n, seed + 1)
    merged = fit(a, "low_rank", rank).merged(fit(b, "low_rank", rank))
    assert isinstance(merged, LowRank)
    assert merged.factor.shape == (WIDTH, rank)
    union = fit(torch.cat([a, b]), "diagonal")
    assert isinstance(union, Diagonal)
    close(merged.factor.square().sum(1) + merged.rest, union.variance)


@given(m=counts, n=counts, seed=seeds)
def test_merging_centroids_keeps_the_weightiest_centres(m: int, n: int, seed: int) -> None:
    a, b = fit(features(m, seed), "centroids", 3), fit(features(n, seed + 1), "centroids", 3)
    merged = a.merged(b)
    assert isinstance(merged, Centroids)
    close(merged.mean, torch.cat([features(m, seed), features(n, seed + 1)]).mean(0))
    assert len(merged.centres) == max(len(x.centres) for x in (a, b) if isinstance(x, Centroids))
    assert float(merged.shares.sum()) == pytest.approx(1)
    theirs = torch.cat([pack(a)[0]["centres"], pack(b)[0]["centres"]]).tolist()
    assert all(centre in theirs for centre in merged.centres.tolist())


def test_k_means_finds_the_clusters() -> None:
    corners = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    x = corners.repeat_interleave(torch.tensor([2, 3, 5]), 0) + 0.1 * features(10, 0, width=2)
    found = fit(x, "centroids", 3)
    assert isinstance(found, Centroids)
    order = torch.cdist(corners, found.centres).argmin(1)
    assert (found.centres[order] - corners).abs().max() < 1
    assert found.shares[order].tolist() == pytest.approx([0.2, 0.3, 0.5])
    assert found.variance.max() < 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 2])
def test_a_class_of_one_or_two_images_has_a_valid_distribution(kind: Kind, count: int) -> None:
    drawn = fit(features(count, 0), kind).sampler(1e-4).draw(2000, generator(0))
    assert torch.isfinite(drawn).all()
    assert drawn.std(0).min() > 0.009  # the floor, at least
    if count == 1:
        assert drawn.std(0).max() < 0.011
        torch.testing.assert_close(drawn.mean(0), features(1, 0)[0], atol=0.002, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
@given(
    parts=st.lists(st.tuples(st.integers(1, 4), st.booleans()), min_size=1, max_size=4),
    seed=seeds,
    scale=st.sampled_from([0.0, 1e-6, 1.0, 1e3]),
)
def test_no_class_ever_gives_nan(kind: Kind, parts: list[tuple[int, bool]], seed: int, scale: float) -> None:
    """Few, equal and very large features, fitted and merged in any number of pieces."""
    pieces = []
    for i, (count, equal) in enumerate(parts):
        x = features(count, seed + i, width=16, scale=scale)
        pieces.append(fit(x[:1].expand(count, -1) if equal else x, kind, 3))
    merged = pieces[0]
    for piece in pieces[1:]:
        merged = merged.merged(piece)
    assert merged.count == sum(count for count, _ in parts)
    assert torch.isfinite(merged.sampler(1e-4).draw(20, generator(seed))).all()


@pytest.mark.parametrize("kind", KINDS)
def test_samples_have_the_moments_that_were_fitted(kind: Kind) -> None:
    x = features(30, 1)
    drawn = fit(x, kind, components=3).sampler(1e-4).draw(60_000, generator(0))
    spread = x.var(0)
    assert ((drawn.mean(0) - x.mean(0)).abs() < 0.05 * spread.sqrt()).all()
    if kind != "shrunk":  # it is meant to differ
        torch.testing.assert_close(drawn.var(0), spread, rtol=0.15, atol=0)
    if kind == "full":
        torch.testing.assert_close(drawn.T.cov(), x.T.cov(), rtol=0.05, atol=0.05 * float(spread.max()))


def test_low_rank_samples_have_the_correlations_of_the_leading_directions() -> None:
    x = features(50, 2)
    drawn = fit(x, "low_rank", WIDTH).sampler(1e-4).draw(60_000, generator(0))
    torch.testing.assert_close(drawn.T.cov(), x.T.cov(), rtol=0.05, atol=0.05 * float(x.var(0).max()))


def test_shrinkage_is_strong_for_few_images_and_weak_for_many() -> None:
    def off_diagonal(count: int) -> float:
        shrunk = fit(features(count, 3), "shrunk")
        assert isinstance(shrunk, Shrunk)
        kept, own = shrunk._covariance().fill_diagonal_(0), shrunk.covariance.clone().fill_diagonal_(0)
        assert shrunk._covariance().trace() == pytest.approx(float(shrunk.covariance.trace()), rel=1e-4)
        return float(kept.norm() / own.norm())

    assert off_diagonal(3) < off_diagonal(20) < off_diagonal(2000)
    assert off_diagonal(2000) > 0.99


def test_shrinkage_is_the_oracle_approximating_one() -> None:
    """Equation 23 of Chen et al. 2010, by numpy."""
    x, n, p = features(60, 4).numpy(), 60, WIDTH
    s = np.cov(x.T)
    squares, trace = np.trace(s @ s), np.trace(s)
    rho = ((1 - 2 / p) * squares + trace**2) / ((n + 1 - 2 / p) * (squares - trace**2 / p))
    assert 0.01 < rho < 0.5
    shrunk = fit(torch.from_numpy(x), "shrunk")
    assert isinstance(shrunk, Shrunk)
    close(shrunk._covariance(), torch.from_numpy((1 - rho) * s + rho * trace / p * np.eye(p)).float())


@pytest.mark.parametrize("kind", KINDS)
def test_the_floor_is_added_to_every_variance(kind: Kind) -> None:
    def spread(floor: float) -> Tensor:
        sampler = fit(features(9, 0), kind, 3).sampler(floor)
        covariance = torch.zeros(WIDTH, WIDTH)
        if sampler.factor is not None:
            covariance += sampler.factor @ sampler.factor.T
        if sampler.deviation is not None:
            covariance += sampler.deviation.square().diag()
        return covariance

    close(spread(2.0) - spread(0.5), 1.5 * torch.eye(WIDTH))


@pytest.mark.parametrize("kind", KINDS)
def test_statistics_survive_being_stored(kind: Kind) -> None:
    found = fit(features(6, 0), kind, 3)
    back = unpack(ClassStatistics, *pack(found))
    assert type(back) is type(found)
    draws = [s.sampler(1e-4).draw(4, generator(0)) for s in (found, back)]
    assert torch.equal(*draws)


@pytest.mark.parametrize("kind", KINDS)
def test_memory_is_what_the_table_says(kind: Kind) -> None:
    d, k = WIDTH, 3
    numbers = {
        "full": d + d * d,
        "shrunk": d + d * d,
        "diagonal": 2 * d,
        "low_rank": d * (k + 2),
        "centroids": k * (d + 1) + 2 * d,
    }
    assert sum(t.numel() for t in pack(fit(features(9, 0), kind, k))[0].values()) == numbers[kind]


@pytest.mark.parametrize("bad", [torch.zeros(0, 3), torch.full((2, 3), torch.nan), torch.full((2, 3), torch.inf)])
def test_no_features_or_features_that_are_not_finite_are_refused(bad: Tensor) -> None:
    with pytest.raises(ValueError, match="at least one row of finite features"):
        fit(bad)


@pytest.mark.parametrize("kind", KINDS)
def test_a_covariance_beyond_float32_keeps_its_spread(kind: Kind) -> None:
    """Two images with large features: rounding makes the covariance indefinite, beyond any small floor."""
    x = features(2, 0, width=16, scale=1e3)
    drawn = fit(x[:1], kind).merged(fit(x[1:], kind)).sampler(1e-4).draw(20_000, generator(0))
    if kind in ("full", "diagonal", "low_rank"):
        torch.testing.assert_close(drawn.var(0), x.var(0), rtol=0.05, atol=1)
    assert torch.isfinite(drawn).all()
