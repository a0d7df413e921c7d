"""Maps between features of two networks: what is left out is left out, and what is remembered moves as features do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from continual.statistics.class_statistics import Kind, fit
from continual.statistics.ridge import GramStatistics
from continual.statistics.transport import FeatureMap

WIDTH, NEW = 6, 4


def features(count: int, width: int = WIDTH, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 2


def noisy(x: Tensor, width: int = NEW) -> Tensor:
    return x @ features(x.shape[1], width, 7) + features(len(x), width, 8)


def weight(found: FeatureMap) -> Tensor:
    """A (D, D')."""
    return found.directions(torch.eye(len(found.down), dtype=torch.float64))


def test_an_affine_change_is_recovered() -> None:
    x = features(40)
    z = x @ features(WIDTH, NEW, 3) + 5
    found = FeatureMap.fit(x, z)
    assert found.explained > 1 - 1e-6
    assert (found.points(features(9, seed=5)) - (features(9, seed=5) @ features(WIDTH, NEW, 3) + 5)).abs().max() < 1e-4


def test_permuted_features_are_recovered() -> None:
    x, order = features(40), torch.tensor([3, 0, 5, 1, 4, 2])
    found = FeatureMap.fit(x, x[:, order])
    assert (found.points(x) - x[:, order]).abs().max() < 1e-4


def test_few_images_leave_features_of_a_lineage_where_they_are() -> None:
    """Eight images of 40 features that moved a little say nothing of most directions: these are kept, not forgotten."""
    x = features(8, 40)
    z = x + 0.1 * features(8, 40, 1)
    found, new = FeatureMap.fit(x, z), features(50, 40, 2)
    assert (found.points(new) - new).std() < 0.3 * new.std()
    assert 0.8 < found.kept < 1.2
    assert FeatureMap.fit(features(8, 40), features(8, 41, 1)).kept == 0


@pytest.mark.parametrize("copies", [1, 2])
def test_residuals_are_those_of_images_left_out(copies: int) -> None:
    """As if the ridge had been solved without an image and all of its rows, at the penalty that was chosen."""
    x = features(30)
    x[1::2] = x[::2] + 0.1 * features(15, seed=9)
    z = noisy(x)
    found = FeatureMap.fit(x, z, copies)
    values = torch.linalg.svdvals(x - x.mean(0)).square()
    for image in range(30 // copies):
        out = torch.zeros(30, dtype=torch.bool)
        out[image * copies : (image + 1) * copies] = True
        a, b = x[~out] - x[~out].mean(0), z[~out] - z[~out].mean(0)
        errors = []
        for share in (10 ** (k / 2) for k in range(8, -13, -1)):
            w = torch.linalg.solve(a.mT @ a + share * values.mean() * torch.eye(WIDTH), a.mT @ b)
            own = z[out] - z[~out].mean(0) - (x[out] - x[~out].mean(0)) @ w
            errors.append((own - found.residuals[out] * 30**0.5).abs().max())
        # The penalty that was chosen is one of those tried, and for it they agree.
        assert min(errors) < 1e-8


def test_what_is_explained_is_that_of_images_left_out() -> None:
    x = features(20, 15)
    assert FeatureMap.fit(x, features(20, 4, 1)).explained < 0.1
    assert 0.5 < FeatureMap.fit(features(400), noisy(features(400))).explained < 1


@pytest.mark.parametrize("width", [NEW, WIDTH])
def test_sums_move_as_the_images_would(width: int) -> None:
    """Sums of mapped images, and n R: to rounding; also their scatter, but for R."""
    x, labels = features(30), torch.arange(30) % 3
    found = FeatureMap.fit(x, noisy(x, width))
    moved = found.sums(GramStatistics.of(x, labels, 3, directions=4))
    wanted = GramStatistics.of(found.points(x), labels, 3, directions=4)
    assert torch.allclose(moved.total, wanted.total)
    assert torch.allclose(moved.targets, wanted.targets)
    assert torch.equal(moved.counts, wanted.counts)
    assert torch.allclose(moved.gram(), wanted.gram() + 30 * found.noise)
    assert moved.scatter is not None
    assert moved.scatter.shape == (3, 4, width)
    moved.check_shapes()


@pytest.mark.parametrize("kind", ["full", "shrunk", "diagonal", "low_rank", "centroids"])
@pytest.mark.parametrize("width", [NEW, WIDTH])
def test_distributions_move_as_the_features_would(kind: Kind, width: int) -> None:
    x = features(60).float()
    found = FeatureMap.fit(x, noisy(x.double(), width))
    known = fit(x, kind, 3)
    moved, a = found.statistics(known), weight(found).float()
    assert moved.kind == kind
    assert moved.count == 60
    assert torch.allclose(moved.mean, found.points(known.mean), atol=1e-4)
    wanted = a.mT @ known.covariance_matrix() @ a + found.noise.float()
    if kind in ("full", "shrunk"):
        assert torch.allclose(moved.covariance_matrix(), wanted, rtol=1e-3, atol=1e-3)
    elif kind != "centroids":  # of which only the shared variance has a diagonal
        assert torch.allclose(moved.covariance_matrix().diagonal(), wanted.diagonal(), rtol=1e-3)
    draws = moved.sampler(1e-6).draw(20_000, torch.Generator().manual_seed(0))
    assert torch.allclose(draws.var(0), wanted.diagonal(), rtol=0.35 if kind == "shrunk" else 0.1)


def test_drawn_features_spread_as_residuals_do() -> None:
    x = features(60)
    found = FeatureMap.fit(x, noisy(x))
    draws = found.drawn(x[:1].expand(20_000, -1), torch.Generator().manual_seed(0))
    assert torch.allclose(torch.cov(draws.mT), found.noise, rtol=0.1, atol=0.05)


@pytest.mark.parametrize("width", [NEW, WIDTH])
def test_a_head_of_new_features_is_asked_through_the_map(width: int) -> None:
    x = features(30)
    found = FeatureMap.fit(x, noisy(x, width))
    head, bias = features(width, 3, 4), features(1, 3, 5)[0]
    before, moved = found.through(head, bias)
    assert torch.allclose(x @ before + moved, found.points(x) @ head + bias)


def test_what_cannot_be_fitted_is_refused() -> None:
    x = features(10)
    for old, new in ((x[:2], x[:2]), (x, x[:9]), (x, x * torch.nan)):
        with pytest.raises(ValueError, match=r"images|NaN"):
            FeatureMap.fit(old, new)


def test_features_that_never_vary_are_no_trouble() -> None:
    found = FeatureMap.fit(torch.ones(10, 3), torch.full((10, 2), 4.0))
    assert found.explained == 1
    assert torch.equal(replace(found, kept=0.0).points(torch.zeros(1, 3)), torch.full((1, 2), 4.0))
