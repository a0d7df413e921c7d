"""Unknown images and probabilities: leaving out, stand-ins, false alarms, and what a learner says."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from continual.backbones.loading import Backbone
from continual.errors import InputError
from continual.learning import model_file
from continual.methods.bases.alignment import AlignedState
from continual.methods.mos.learner import MOSLearner
from continual.methods.ridge import RidgeLearner
from continual.methods.simple_cil import SimpleCILLearner
from continual.methods.slca import SLCALearner
from continual.methods.strata import StrataLearner
from continual.statistics.class_statistics import ClassStatistics, Kind, fit
from continual.uncertainty import gaussians

Blobs = Callable[..., tuple[Tensor, list[int]]]
QUICK = {"epochs": 2, "batch_size": 4, "lr": 0.05, "bottleneck": 4, "alignment_epochs": 2}


def features(classes: int, each: int, width: int = 24, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Gaussian features of classes whose means do not depend on the seed."""
    means = 2.0 * torch.randn(classes, width, generator=torch.Generator().manual_seed(1))
    noise = torch.randn(classes * each, width, generator=torch.Generator().manual_seed(100 + seed))
    own = torch.arange(classes).repeat_interleave(each)
    return means[own] + noise * torch.linspace(0.5, 2, width), own


def statistics(found: Tensor, own: Tensor) -> list[ClassStatistics]:
    return [fit(found[own == c]) for c in own.unique()]


def draws() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_leaving_out_is_fitting_without_the_image() -> None:
    found, own = features(3, 6)
    classes, _ = gaussians._gaussians(statistics(found, own))
    inverse, freedom = classes.whitening.mT @ classes.whitening, len(own) - 3
    scatter = sum((5 * s.covariance_matrix() for s in statistics(found, own)), torch.zeros(24, 24))
    ridge = torch.linalg.inv(inverse) - 0.5 * scatter / freedom
    got = classes.left_out(found, own)
    for i in range(len(own)):
        rest = torch.arange(len(own)) != i
        without = statistics(found[rest], own[rest])
        less = sum(((s.count - 1) * s.covariance_matrix() for s in without), torch.zeros(24, 24))
        precision = torch.linalg.inv(0.5 * less / freedom + ridge)
        gaps = found[i] - torch.stack([s.mean for s in without])
        counts = torch.tensor([s.count for s in without])
        torch.testing.assert_close(got[i], ((gaps @ precision) * gaps).sum(-1) / (1 + 1 / counts), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("count", [2, 5, 40])
def test_pseudo_samples_have_the_very_mean_and_covariance(count: int) -> None:
    known = fit(features(1, count)[0])
    got = fit(gaussians._pseudo_samples(known, draws()))
    torch.testing.assert_close(got.mean, known.mean, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(got.covariance_matrix(), known.covariance_matrix(), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("each", "slack"), [(3, 0.15), (10, 0.03), (100, 0.03)])
def test_false_alarms_are_about_as_many_as_asked_for(each: int, slack: float) -> None:
    alarms, found_out = [], []
    strangers = 2.0 * torch.randn(500, 24, generator=torch.Generator().manual_seed(7))
    for seed in range(4):
        learned = statistics(*features(8, each, seed=10 + seed))
        known = gaussians.detector_of(learned, gaussians.calibrate(learned, draws()))
        assert known is not None
        fresh = known.p_value(features(8, 200, seed=50 + seed)[0])
        alarms.append(float((fresh <= 0.1).float().mean()))
        found_out.append(float((known.p_value(strangers) <= 0.1).float().mean()))
    assert sum(alarms) / 4 == pytest.approx(0.1, abs=slack)
    assert min(found_out) > 0.5


@pytest.mark.parametrize("each", [5, 60])
def test_many_classes_of_low_rank_are_judged_as_few_are(each: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found, own = features(40, each)
    learned = [fit(found[own == c], "low_rank", 8) for c in range(40)]
    few = gaussians.calibrate(learned, draws()), gaussians.detector_of(learned, gaussians.calibrate(learned, draws()))
    monkeypatch.setattr(gaussians, "FEW_CLASSES", 39)
    monkeypatch.setattr(gaussians, "TOGETHER", 7)
    many = gaussians.calibrate(learned, draws()), gaussians.detector_of(learned, gaussians.calibrate(learned, draws()))
    assert many[0] is not None
    assert few[0] is not None
    assert many[0].accuracy == pytest.approx(few[0].accuracy, abs=0.03)
    assert many[0].temperature == pytest.approx(few[0].temperature, rel=0.15)
    fresh = features(40, 20, seed=3)[0]
    for known in (few[1], many[1]):
        assert known is not None
        assert float((known.p_value(fresh) <= 0.1).float().mean()) == pytest.approx(0.1, abs=0.06)
    torch.testing.assert_close(many[1].classes.whitening, few[1].classes.whitening, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(many[1].classes.distances(fresh), few[1].classes.distances(fresh), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("count", [2, 5, 9, 400])
def test_pseudo_samples_of_many_classes_have_the_covariance(count: int) -> None:
    known = fit(features(1, count)[0], "low_rank", 8)
    most = 64 if count < 64 else 40_000
    got = fit(gaussians._pseudo_samples(known, draws(), most, many=True))
    slack = 1e-3 if count < 64 else 0.1
    torch.testing.assert_close(got.mean, known.mean, rtol=slack, atol=slack)
    torch.testing.assert_close(got.covariance_matrix(), known.covariance_matrix(), rtol=slack, atol=slack)


def test_probabilities_can_be_believed() -> None:
    found, own = features(8, 10)
    known = gaussians.detector_of(
        statistics(0.2 * found, own), gaussians.calibrate(statistics(0.2 * found, own), draws())
    )
    assert known is not None
    noisy, truth = features(8, 300, seed=2)
    confidence, answer = known.probabilities(0.2 * noisy).max(-1)
    assert float(confidence.mean()) == pytest.approx(float((answer == truth).float().mean()), abs=0.1)


def test_the_temperature_is_the_likeliest() -> None:
    logits = torch.randn(20000, 5, generator=draws())
    own = torch.multinomial((logits / 3).softmax(-1), 1, generator=draws())[:, 0]
    assert gaussians.fit_temperature(-logits, own) == pytest.approx(3, rel=0.1)


@pytest.mark.parametrize("kind", get_args(Kind))
def test_every_kind_of_statistics_serves(kind: Kind) -> None:
    found, own = features(3, 6)
    known = [fit(found[own == c], kind) for c in range(3)]
    calibration = gaussians.calibrate([*known, fit(found[:1], kind)], draws())
    assert calibration is not None
    assert calibration.ood_scores.isfinite().all()
    assert gaussians.calibrate(known[:1], draws()) is None
    assert gaussians.calibrate([fit(found[:1], kind), fit(found[-1:], kind)], draws()) is None


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        (MOSLearner, QUICK),
        (SLCALearner, {"epochs": 1, "batch_size": 4, "alignment_epochs": 1}),
        (RidgeLearner, {}),
        (StrataLearner, {}),
    ],
)
def test_a_learner_marks_unknown_images(
    method: type[MOSLearner], settings: dict[str, Any], backbone: Backbone, blobs: Blobs, tmp_path: Path
) -> None:
    learner = method(backbone, **settings)
    learner.learn(*blobs([0], 4))
    if learner.one_class:
        assert learner.predict(blobs([0], 2)[0], false_alarm_rate=0.05).anomaly is not None
    else:
        with pytest.raises(InputError, match="two classes"):
            learner.predict(blobs([0], 2)[0], false_alarm_rate=0.05)
    learner.learn(*blobs([1, 2], 8))
    images = torch.cat([blobs([0, 1, 2], 4, seed=1)[0], 255 - blobs([7, 8, 9], 4)[0]])
    plain, asked = learner.predict(images), learner.predict(images, false_alarm_rate=0.1)
    assert plain.unknown is None
    assert asked.unknown is not None
    assert asked.p_value is not None
    assert torch.equal(asked.unknown, asked.p_value <= 0.1)
    assert asked.unknown[12:].float().mean() > asked.unknown[:12].float().mean()
    assert asked.probabilities is not None
    torch.testing.assert_close(asked.probabilities.sum(-1), torch.ones(24))
    learner.save(tmp_path / "model.safetensors")
    again = method.load(tmp_path / "model.safetensors", backbone).predict(images, false_alarm_rate=0.1)
    assert again.probabilities is not None
    assert torch.equal(again.p_value, asked.p_value)
    assert torch.equal(again.probabilities, asked.probabilities)
    for rate in (0, 1, -0.1, float("nan")):
        with pytest.raises(InputError, match="false_alarm_rate"):
            learner.predict(images, false_alarm_rate=rate)


def test_a_file_from_before_still_loads(backbone: Backbone, blobs: Blobs, tmp_path: Path) -> None:
    learner, path = MOSLearner(backbone, **QUICK), tmp_path / "model.safetensors"
    learner.learn(*blobs([0, 1], 4))
    learner.save(path)
    tensors, header = model_file.read(path)
    del tensors["state/calibration/ood_scores"], header["state"]["calibration"]
    model_file.write(path, tensors, json.loads(json.dumps(header)))
    loaded = MOSLearner.load(path, backbone)
    assert loaded.predict(blobs([0], 2)[0]).probabilities is None
    with pytest.raises(InputError, match="learned with this version"):
        loaded.predict(blobs([0], 2)[0], false_alarm_rate=0.05)
    loaded.learn(*blobs([0], 4))
    assert loaded.predict(blobs([0], 2)[0], false_alarm_rate=0.05).unknown is not None


def test_other_methods_say_that_they_cannot(backbone: Backbone, blobs: Blobs) -> None:
    learner = SimpleCILLearner(backbone)
    learner.learn(*blobs([0, 1], 4))
    with pytest.raises(InputError, match="takes a method that can"):
        learner.predict(blobs([0], 1)[0], false_alarm_rate=0.05)


def test_what_is_strange_is_of_the_stack_that_answered(backbone: Backbone, blobs: Blobs) -> None:
    learner = MOSLearner(backbone, **QUICK, statistics="full")
    for classes in ([0, 1], [2, 3]):
        learner.learn(*blobs(classes, 6))
    images = blobs([2, 3], 4, seed=3)[0]
    got = learner.predict(images)
    assert got.stack is not None
    assert got.stack.any(), "no image was served by the second stack: the test says nothing"
    state = learner.state
    learner.state = replace(state, bank=(state.bank[0], {k: v * 0 for k, v in state.bank[1].items()}))
    other = learner.predict(images)
    served = got.stack == 1
    assert other.p_value is not None
    assert not torch.allclose(other.p_value[served], got.p_value[served], atol=1e-5)


def test_what_was_forgotten_is_unknown_and_the_rest_as_usual() -> None:
    """Calibrated anew on what is left: as if the class had never been there, with as many false alarms as asked for."""
    found, own = features(5, 60)
    known = tuple(statistics(found, own))
    state = AlignedState(
        classes=tuple("abcde"),
        class_experience=(0,) * 5,
        statistics=known,
        calibration=gaussians.calibrate(known, draws()),
    )
    left, fresh = state.without(2), features(5, 60, seed=1)
    never = gaussians.calibrate([*known[:2], *known[3:]], torch.Generator().manual_seed(2))
    assert left.calibration is not None
    assert never is not None
    assert left.calibration.temperature == never.temperature
    assert torch.equal(left.calibration.ood_scores, never.ood_scores)
    forgotten, others = fresh[0][fresh[1] == 2], fresh[0][fresh[1] != 2]
    assert state.known is not None
    assert left.known is not None
    assert (state.known.p_value(forgotten) <= 0.05).float().mean() < 0.15
    assert (left.known.p_value(forgotten) <= 0.05).float().mean() > 0.8
    assert abs((left.known.p_value(others) <= 0.05).float().mean() - 0.05) < 0.04
    assert left.known.probabilities(others).shape == (240, 4)
    torch.testing.assert_close(left.known.probabilities(others).sum(1), torch.ones(240))
