"""A model of a single class: how unusual an image is, from the same sums, and what is usual of good images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import continual
from continual import RidgeLearner, StrataLearner
from continual.errors import InputError
from continual.learning.merged import merged
from continual.methods.simple_cil import SimpleCILLearner
from continual.statistics.ridge import GramStatistics, Standardised
from continual.testing import coloured_squares, tiny_backbone
from continual.uncertainty.certainty import certainty
from continual.uncertainty.leverage import Certainty

METHODS = (RidgeLearner, StrataLearner)
Made = Callable[..., Any]


def features(images: int, seed: int, width: int = 20, spread: float = 1.0) -> Tensor:
    draw = torch.Generator().manual_seed(seed)
    return 3 + spread * torch.randn(images, width, generator=draw) * torch.arange(1, width + 1)


def known_of(x: Tensor, before: Certainty | None = None, seen: GramStatistics | None = None) -> Any:
    """What is usual after features (n, D) of a class, with the sums and their system."""
    y = torch.zeros(len(x), dtype=torch.int64)
    sums = GramStatistics.of(x, y, 1).plus(seen)
    system = Standardised.of(sums, 5.0)
    found = certainty(sums, system, system.solve(sums), (x, y), before, torch.Generator().manual_seed(0))
    return found, sums, system


def test_the_anomaly_is_a_squared_distance_1_of_a_typical_image() -> None:
    x, new = features(200, 0), features(50, 1)
    found, _, system = known_of(x)
    z = (new.double() - system.mean) / system.deviation
    wanted = 1 / 200 + (z @ torch.cholesky_inverse(system.lower) * z).sum(1)
    got = found.anomaly(new)
    torch.testing.assert_close((got / got[0]).double(), wanted / wanted[0], rtol=1e-4, atol=1e-5)
    assert float(got.median()) == pytest.approx(1, abs=0.1)
    assert found.anomaly_threshold(0.5) == 1


@pytest.mark.parametrize("settings", [{}, {"mirror": False, "answer_views": 1}, {"mirror_as": "mean"}], ids=str)
def test_a_good_image_that_was_not_learned_has_an_anomaly_of_1_however_it_is_looked_at(
    settings: dict[str, Any],
) -> None:
    """One view is further off than the mean of an image and its mirror image: the unit is that of the answer."""
    learner = StrataLearner(tiny_backbone(), **settings)
    for seed in (0, 1):
        learner.learn(*coloured_squares([0], 40, seed=seed))
    found = learner.predict(coloured_squares([0], 150, seed=2)[0], false_alarm_rate=0.5)
    assert float(found.anomaly.median()) == pytest.approx(1, abs=0.15)
    assert found.anomaly_threshold == 1
    if learner.settings.mirror and learner.settings.mirror_as == "sample":
        single = learner.variant(answer_views=1).predict(coloured_squares([0], 150, seed=2)[0], false_alarm_rate=0.5)
        assert float(single.anomaly.median()) == pytest.approx(1, abs=0.15)
        assert not torch.equal(single.anomaly, found.anomaly)


def test_left_out_distances_are_those_without_the_image() -> None:
    x = features(15, 0, width=4)
    found, _, system = known_of(x)
    kept = []
    for i in range(15):
        rest = torch.cat([x[:i], x[i + 1 :]]).double()
        z = torch.cat([torch.ones(14, 1), (rest - system.mean) / system.deviation], 1)
        own = torch.cat([torch.ones(1).double(), (x[i] - system.mean) / system.deviation])
        inverse = torch.linalg.inv(z.mT @ z + torch.diag(torch.tensor([0.0] + 4 * [5.0])))
        kept.append(float(own @ inverse @ own))
    usual = (-found.ood_scores).pow(-1 / 1.25) * float(found.leverage)
    assert float(usual.min()) == pytest.approx(min(kept), rel=1e-3)
    assert float(usual.max()) == pytest.approx(max(kept), rel=1e-3)


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.3])
def test_false_alarms_are_as_many_as_asked_for_and_lie_above_the_threshold(rate: float) -> None:
    first, _, _ = alarms = known_of(features(150, 0))
    found, _, _ = known_of(features(250, 1), first, alarms[1])
    new = features(4000, 2)
    values = torch.ones(4000, 1)
    unknown = found.judge(values, new)[1] <= rate
    assert float(unknown.float().mean()) == pytest.approx(rate, abs=0.015 + 0.15 * rate)
    assert torch.equal(unknown, found.anomaly(new) > found.anomaly_threshold(rate))
    assert found.judge(values[:500], features(500, 3, spread=2.0))[1].median() < 0.02
    assert found.anomaly_threshold(1e-9) == float("inf")
    damaged = replace(found, ood_scores=found.ood_scores.abs())
    assert damaged.anomaly_threshold(0.5) > 0


@pytest.mark.parametrize("kind", METHODS)
def test_a_single_class_is_a_model_that_says_what_is_unusual(kind: Made, tmp_path: Path) -> None:
    learner = kind(tiny_backbone())
    learner.learn(*coloured_squares([0], 20))
    learner.learn(*coloured_squares([0], 20, seed=1))
    good, others = coloured_squares([0], 40, seed=2)[0], coloured_squares([1, 2, 3], 10, seed=2)[0]
    usual, strange = learner.predict(good, false_alarm_rate=0.1), learner.predict(others, false_alarm_rate=0.1)
    assert usual.probabilities is None
    assert strange.unknown.all()
    assert usual.unknown.float().mean() < 0.3
    assert usual.anomaly.max() < strange.anomaly.min()
    assert torch.equal(usual.unknown, usual.anomaly > usual.anomaly_threshold)
    assert learner.predict(good).anomaly_threshold is None
    learner.save(tmp_path / "model.safetensors")
    again = continual.load(tmp_path / "model.safetensors", backbone=learner.backbone)
    assert torch.equal(again.predict(others).anomaly, strange.anomaly)
    learner.correct(good[:4], 0)
    assert learner.predict(good, false_alarm_rate=0.1).anomaly_threshold is not None

    site = kind(tiny_backbone())
    site.learn(*coloured_squares([0], 20, seed=3))
    both = merged([learner, site]).predict(others, false_alarm_rate=0.1)
    assert both.unknown.all()


@pytest.mark.parametrize("kind", METHODS)
def test_with_a_second_class_it_is_as_if_the_first_had_said_nothing(kind: Made) -> None:
    """Distances from one class and values among several are two scores, whose quantiles do not mix."""
    one, quiet = kind(tiny_backbone()), kind(tiny_backbone())
    first, second = coloured_squares([0], 12), coloured_squares([1], 12)
    for learner in (one, quiet):
        learner.learn(*first)
    quiet.state = replace(quiet.state, certainty=None)
    for learner in (one, quiet):
        learner.learn(*second)
    x = coloured_squares([0, 1, 2], 4, seed=1)[0]
    for name in ("scores", "probabilities", "p_value"):
        assert torch.equal(getattr(one.predict(x), name), getattr(quiet.predict(x), name))
    assert one.predict(x).anomaly is None
    one.forget(1)
    assert one.predict(x).p_value is None
    one.learn(*coloured_squares([0], 12, seed=4))
    assert one.predict(x).anomaly is not None


@pytest.mark.parametrize("first", [True, False])
def test_merged_with_a_model_of_several_classes_it_says_nothing_of_what_is_usual(first: bool) -> None:
    def of(*streams: list[int]) -> RidgeLearner:
        learner = RidgeLearner(tiny_backbone())
        for classes in streams:
            learner.learn(*coloured_squares(classes, 12))
        return learner

    one, quiet, several = of([0]), of([0]), of([1, 2])
    assert quiet.state.certainty is not None
    images = torch.zeros_like(quiet.state.certainty.images)
    quiet.state = replace(quiet.state, certainty=replace(quiet.state.certainty, images=images, classes=images))
    x = coloured_squares([0, 1, 2, 3], 4, seed=1)[0]
    found, wanted = (merged([own, several] if first else [several, own]).predict(x) for own in (one, quiet))
    assert torch.equal(found.p_value, wanted.p_value)
    assert torch.equal(found.probabilities, wanted.probabilities)


def test_what_cannot_say_it_says_so() -> None:
    x, labels = coloured_squares([0], 12)
    for learner in (
        SimpleCILLearner(tiny_backbone()),
        RidgeLearner(tiny_backbone(), symmetry="score_averaging", group="C4"),
    ):
        learner.learn(x, labels)
        assert not learner.tells_unusual
        with pytest.raises(InputError, match="cannot say what is unknown"):
            learner.predict(x, false_alarm_rate=0.1)
    single = RidgeLearner(tiny_backbone())
    single.learn(x[:1], labels[:1])
    assert not single.tells_unusual
    with pytest.raises(InputError, match="two images of one"):
        single.predict(x, false_alarm_rate=0.1)
