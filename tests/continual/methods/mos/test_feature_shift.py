"""What is remembered of stacks' shifts, and what it predicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

import continual
from continual.backbones.loading import Backbone
from continual.methods.mos import feature_shift
from continual.methods.mos.feature_shift import SAMPLES, FeatureShiftModel, ShiftStatistics, alike
from continual.methods.mos.learner import MOSLearner
from continual.statistics.class_statistics import Diagonal, fit

Blobs = Callable[..., tuple[Tensor, list[int]]]
WIDTH = 12


def draw(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def experiences(count: int, images: int, noise: float, seed: int = 0) -> tuple[Tensor, list[tuple[Tensor, Tensor]]]:
    """Return a slope and each experience's features under the first stack and its own, of unit spread but the noise."""
    g = draw(seed)
    slope = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=g))[0] * ((1 - noise) / WIDTH) ** 0.5
    found = []
    for k in range(count):
        first = 3 * torch.randn(WIDTH, generator=g) + torch.randn(images, WIDTH, generator=g)
        residual = (noise / WIDTH) ** 0.5 * torch.randn(images, WIDTH, generator=g)
        found.append((first, first + k * (0.3 + (first - first.mean(0)) @ slope + residual)))
    return slope, found


def summed(parts: list[tuple[Tensor, Tensor]]) -> ShiftStatistics:
    sums = ShiftStatistics.of(*parts[0])
    for part in parts[1:]:
        sums = sums.plus(ShiftStatistics.of(*part))
    return sums


@pytest.mark.parametrize("noise", [0.1, 0.5, 0.9])
def test_one_regression_serves_all_stacks_and_knows_what_it_leaves(noise: float) -> None:
    slope, parts = experiences(5, 200, noise)
    solved, unexplained = summed(parts).solve(800)
    assert unexplained == pytest.approx(noise, abs=0.06)
    _, fresh = experiences(2, 4000, noise)
    first, own = fresh[1]
    shift = own - first
    left = shift - shift.mean(0) - (first - first.mean(0)) @ solved
    assert float(left.square().sum(1).mean()) == pytest.approx(unexplained, rel=0.1), "of images that were not learned"
    torch.testing.assert_close(solved, slope, atol=0.1, rtol=0)


def test_each_experience_s_mean_takes_one_image_s_worth(monkeypatch: pytest.MonkeyPatch) -> None:
    _, parts = experiences(5, 4, 0.5)
    asked: list[tuple[float, float]] = []

    def noting(values: Tensor, explained: Tensor, total: float, count: float) -> tuple[float, float]:
        asked.append((total, count))
        return 1.0, 0.5

    monkeypatch.setattr(feature_shift, "best_penalty", noting)
    summed(parts).solve(16)
    assert asked == [(16, 12)]


def test_of_what_cannot_be_explained_nothing_is() -> None:
    _, parts = experiences(3, 40, 1.0)
    solved, unexplained = summed(parts).solve(80)
    assert unexplained > 0.9
    assert solved.norm() < 0.2
    # A first experience shifts nothing, and one image has no spread.
    alone = summed([parts[0], (parts[1][0][:1], parts[1][1][:1])])
    assert not alone.gram.any()
    assert not alone.cross.any()
    assert alone.solve(1) == (pytest.approx(torch.zeros(WIDTH, WIDTH)), 1.0)
    beginning = summed(parts).beginning()
    assert torch.equal(beginning.origins, parts[0][0].mean(0, keepdim=True))
    assert not beginning.gram.any()


def test_stacks_are_alike_as_their_differences_from_the_first() -> None:
    bank = {"a": torch.tensor([[1.0, 1.0], [2.0, 1.0], [3.0, 1.0], [1.0, 1.0]]), "b": torch.ones(4, 1, 2)}
    bank["b"][2] += torch.tensor([0.0, 2.0])
    found = alike(bank)
    expected = torch.eye(4).double()
    expected[1, 2] = expected[2, 1] = 0.5**0.5  # (1, 0, 0, 0) and (2, 0, 0, 2)
    torch.testing.assert_close(found, expected)


BANK = {"a": torch.tensor([[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 2.0]])}


def together(parts: list[tuple[Tensor, Tensor]], seed: int = 1) -> FeatureShiftModel:
    statistics = [fit(own - first, "low_rank") for first, own in parts]
    return FeatureShiftModel.of(statistics, summed(parts), BANK, draw(seed), 1e-9)


@pytest.fixture
def parts() -> list[tuple[Tensor, Tensor]]:
    return experiences(4, 300, 0.4)[1]


@pytest.fixture
def shifts(parts: list[tuple[Tensor, Tensor]]) -> FeatureShiftModel:
    return together(parts)


def test_residuals_are_drawn_as_wide_and_as_alike_as_they_are(
    parts: list[tuple[Tensor, Tensor]], shifts: FeatureShiftModel
) -> None:
    assert shifts.samples.shape == (4, SAMPLES, WIDTH)
    assert not shifts.samples[0].any()
    many = [shifts, *(together(parts, seed) for seed in range(2, 30))]
    samples = torch.cat([one.samples for one in many], dim=1)
    products = torch.einsum("iwd,jwd->ij", samples, samples) / samples.shape[1]
    widths = products.diagonal().sqrt()
    torch.testing.assert_close(widths, 0.8**0.5 * shifts.spreads, rtol=0.1, atol=0)
    alikeness = (products / torch.outer(widths, widths))[1:, 1:]
    torch.testing.assert_close(alikeness, alike(BANK)[1:, 1:].float(), atol=0.05, rtol=0)


def test_what_was_run_is_known_and_the_others_follow(shifts: FeatureShiftModel) -> None:
    first, own = (torch.randn(50, WIDTH, generator=draw(seed)) for seed in (3, 4))
    under, zero = torch.full((50,), 2), torch.zeros(50, dtype=torch.int64)
    sloped = first @ shifts.slope
    residual = own - first - shifts.expected(sloped, under)
    sample = torch.arange(50)
    for chosen in (None, sample):
        assert torch.equal(shifts.moved(own, residual, sloped, under, under, chosen), own)
        back = shifts.moved(own, residual, sloped, under, zero, chosen)
        torch.testing.assert_close(back, first, atol=1e-4, rtol=1e-4)
    # From the first stack nothing of the residual is known; under another, as much as they are alike.
    only_first = shifts.moved(first, torch.zeros_like(first), sloped, zero, under)
    torch.testing.assert_close(only_first, first + shifts.expected(sloped, under))
    one = torch.full((50,), 1)
    found = shifts.moved(own, residual, sloped, under, one)
    gain = 0.5**0.5 * shifts.spreads[1] / shifts.spreads[2]
    torch.testing.assert_close(found, first + shifts.expected(sloped, one) + gain * residual, atol=1e-4, rtol=1e-4)
    # What is left to chance narrows accordingly.
    sure = torch.stack([shifts.moved(own, residual, sloped, under, one, sample + w) for w in range(SAMPLES - 50)])
    blind = torch.stack([shifts.moved(first, 0 * residual, sloped, zero, one, sample + w) for w in range(SAMPLES - 50)])
    assert float(sure.var(0).sum() / blind.var(0).sum()) == pytest.approx(0.5, abs=0.15)


def test_of_a_stack_with_one_image_nothing_is_said_of_the_others(parts: list[tuple[Tensor, Tensor]]) -> None:
    parts[2] = (parts[2][0][:1], parts[2][1][:1])
    found = together(parts)
    assert found.spreads[2] == 0
    assert found.gains[:, 2].tolist() == [0, 0, 1, 0]
    assert all(value.isfinite().all() for value in vars(found).values())


def test_a_linear_map_sees_the_same(shifts: FeatureShiftModel) -> None:
    weight = torch.randn(5, WIDTH, generator=draw(5))
    seen = shifts.through(weight)
    first, own = (torch.randn(30, WIDTH, generator=draw(seed)) for seed in (6, 7))
    under, stacks, sample = torch.full((30,), 3), torch.arange(30) % 4, torch.arange(30)
    residual = torch.randn(30, WIDTH, generator=draw(8))
    whole = shifts.moved(own, residual, first @ shifts.slope, under, stacks, sample) @ weight.mT
    part = seen.moved(own @ weight.mT, residual @ weight.mT, first @ seen.slope, under, stacks, sample)
    torch.testing.assert_close(part, whole, atol=1e-4, rtol=1e-4)


def test_simulated_features_are_the_classes_and_shift_as_stacks_do(shifts: FeatureShiftModel) -> None:
    own = torch.tensor([0, 1, 3])
    means = 3 * torch.randn(3, WIDTH, generator=draw(9))
    statistics = [Diagonal(5, mean, torch.ones(WIDTH)) for mean in means]
    first, features_of = shifts.simulated(own, statistics, draw(10), 1e-9)
    count = len(first) // 3
    stack = own.repeat_interleave(count)
    rows = torch.arange(len(first))
    mine = features_of(rows, stack)
    for c in range(3):
        torch.testing.assert_close(mine[stack == own[c]].mean(0), means[c], atol=1.2, rtol=0)
    assert torch.equal(mine[:count], first[:count]), "the first stack's own"
    expected = shifts.expected(first @ shifts.slope, stack)
    residual = (mine - first - expected)[count:]
    widths = shifts.spreads[stack[count:]] * 0.8**0.5
    assert float((residual.norm(dim=1) / widths).square().mean()) == pytest.approx(1, abs=0.25)
    other = features_of(rows, (stack + 1) % 4)
    back = other - shifts.expected(first @ shifts.slope, (stack + 1) % 4) - first
    torch.testing.assert_close(back[stack == 3], torch.zeros(count, WIDTH), atol=1e-4, rtol=0)


def test_sums_grow_with_every_experience_and_lie_in_the_file(backbone: Backbone, blobs: Blobs, tmp_path: Path) -> None:
    learner = MOSLearner(backbone, epochs=4, batch_size=4, lr=0.1, bottleneck=4, alignment_epochs=4)
    learner.learn(*blobs([0, 1], 4))
    begun = learner.state.shift_sums
    assert begun is not None
    assert not begun.gram.any()
    learner.learn(*blobs([2, 3], 4))
    state = learner.state
    assert state.shift_sums is not None
    assert state.prototypes is not None
    torch.testing.assert_close(state.shift_sums.origins[1], state.prototypes.mean[2:].mean(0))
    assert torch.equal(state.shift_sums.beginning().origins, begun.origins)
    assert state.shift_sums.gram.any()
    images, labels = blobs([2, 3], 4)
    learner.learn(images, labels)  # known classes: no stack, no shift
    assert learner.state.shift_sums is state.shift_sums
    learner.save(tmp_path / "m.safetensors", embed_backbone=True)
    again = continual.load(tmp_path / "m.safetensors")
    assert isinstance(again, MOSLearner)
    assert again.state.shift_sums is not None
    assert all(torch.equal(value, vars(state.shift_sums)[name]) for name, value in vars(again.state.shift_sums).items())


def test_a_model_of_before_sums_answers_early_and_learns_on(backbone: Backbone, blobs: Blobs, tmp_path: Path) -> None:
    learner = MOSLearner(backbone, epochs=4, batch_size=4, lr=0.1, bottleneck=4, alignment_epochs=4)
    for classes in ([0, 1], [2, 3]):
        learner.learn(*blobs(classes, 4))
    learner.state = replace(learner.state, shift_sums=None)
    learner.variant(early_exit=0.1).save(tmp_path / "m.safetensors", embed_backbone=True)
    old = continual.load(tmp_path / "m.safetensors")
    assert isinstance(old, MOSLearner)
    assert old.score_batch(torch.rand(4, 3, 16, 16)).values.isfinite().all()
    old.learn(*blobs([4, 5], 4))
    assert old.state.shift_sums is None, "of experiences that are gone nothing can be summed"
    assert len(old.state.shifts) == 3
