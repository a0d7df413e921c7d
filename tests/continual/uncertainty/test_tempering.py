"""Probabilities that follow from scores: the same ranking, the answer first, and calibrated where scores are not."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from continual.backbones.loading import Backbone
from continual.methods.mos.learner import MOSLearner
from continual.metrics.calibration import expected_calibration_error, reliability_table
from continual.seeding import generator
from continual.statistics.class_statistics import fit
from continual.uncertainty.gaussians import calibrate
from continual.uncertainty.tempering import agreeing, score_temperature, tempered

Blobs = Callable[..., tuple[Tensor, list[int]]]


@given(st.integers(0, 1000), st.floats(0.05, 50), st.integers(2, 9))
def test_the_answer_is_the_likeliest_also_where_scores_are_all_but_equal(seed: int, T: float, classes: int) -> None:
    scores = torch.rand(64, classes, generator=generator(seed)) ** 3
    scores[:32] = scores[:32, :1] * (1 + 6e-8 * torch.randint(3, (32, classes), generator=generator(seed, 1)))
    found = tempered(scores, T)
    assert torch.equal(found.argmax(1), scores.argmax(1))
    best = found.topk(2, dim=1).values
    assert (best[:, 0] > best[:, 1]).all()
    torch.testing.assert_close(found.sum(1), torch.ones(64), atol=2e-5, rtol=0)
    clear = scores[32:]
    assert torch.equal(agreeing(clear, clear).argsort(1), clear.argsort(1))


def test_one_class_is_certain() -> None:
    assert tempered(torch.ones(3, 1), 2.0).tolist() == [[1.0]] * 3


@pytest.mark.parametrize("sharpness", [0.2, 1.0, 5.0])
def test_scores_of_any_sharpness_become_calibrated(sharpness: float) -> None:
    """Features of images not learned spread further than those that were, as after training."""
    means = torch.randn(12, 20, generator=generator(1))

    def drawn(count: int, spread: float, seed: int) -> tuple[Tensor, Tensor]:
        own = torch.arange(12).repeat_interleave(count)
        return means[own] + spread * torch.randn(len(own), 20, generator=generator(seed)), own

    learned, labels = drawn(15, 0.9, 2)
    statistics = [fit(learned[labels == c]) for c in range(12)]
    known = calibrate(statistics, generator(3))
    assert known is not None
    assert known.accuracy is not None

    def scores(features: Tensor) -> Tensor:
        return (-sharpness * torch.cdist(features, means).square()).softmax(-1)

    T = score_temperature(statistics, known.accuracy, lambda x, _: scores(x), 1e-4, generator(4))
    fresh, truth = drawn(200, 1.0, 5)
    found = tempered(scores(fresh), T)
    right = (found.argmax(1) == truth).tolist()
    tables = [reliability_table(p.amax(1).clamp(max=1), right) for p in (found, scores(fresh))]
    error, before = (expected_calibration_error(table) or 0 for table in tables)
    assert error < 0.06
    assert sharpness == 1.0 or error < before


def test_the_temperature_follows_what_decides(backbone: Backbone, blobs: Blobs) -> None:
    """With and without the ensemble MOS has two; none is kept in the file, and both are found again from it."""
    quick = {"epochs": 2, "batch_size": 4, "lr": 0.05, "bottleneck": 4, "alignment_epochs": 2}
    learner = MOSLearner(backbone, **quick)
    for classes in ([0, 1], [2]):
        learner.learn(*blobs(classes, 6))
    images = blobs([0, 1, 2], 4, 3)[0]
    for each in (learner, learner.variant(ensemble=False)):
        found = each.predict(images)
        assert found.probabilities is not None
        assert found.probabilities.argmax(1).tolist() == found.scores.argmax(1).tolist()
    assert learner.state.temperatures.keys() == {True, False}
    assert learner.state.temperatures[True] != learner.state.temperatures[False]
