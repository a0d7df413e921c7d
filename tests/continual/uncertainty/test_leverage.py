"""How sure a regression is: images left out, probabilities that can be believed, false alarms, edits and files."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from continual.backbones.loading import Backbone
from continual.errors import InputError
from continual.learning import model_file
from continual.methods.strata import StrataLearner
from continual.metrics.calibration import expected_calibration_error, reliability_table
from continual.statistics.ridge import GramStatistics, LinearHead, Standardised
from continual.uncertainty.certainty import SKETCH, certainty
from continual.uncertainty.left_out import t_left_out
from continual.uncertainty.leverage import Certainty

Blobs = Callable[..., tuple[Tensor, list[int]]]
SEED = 3


def features(classes: int, each: int, seed: int, width: int = 40, noise: float = 2.0) -> tuple[Tensor, Tensor]:
    """Gaussian features of classes whose means do not depend on the seed, and class indices."""
    means = torch.randn(classes, width, generator=torch.Generator().manual_seed(1))
    own = torch.arange(classes).repeat_interleave(each)
    return means[own] + noise * torch.randn(len(own), width, generator=torch.Generator().manual_seed(seed)), own


def learned(
    *experiences: tuple[Tensor, Tensor], strength: float = 10.0, quiet: bool = False
) -> tuple[LinearHead, Certainty, GramStatistics, Standardised]:
    """The regression after some experiences; if `quiet`, none of them says what is usual."""
    sums, found = None, None
    for x, y in experiences:
        new = GramStatistics.of(x, y, int(y.max()) + 1)
        sums = new if sums is None else sums.plus(new)
        system = Standardised.of(sums, strength)
        head = system.solve(sums)
        draw = torch.Generator().manual_seed(SEED)
        found = certainty(sums, system, head, None if quiet else (x, y), found, draw)
    assert sums is not None
    assert found is not None
    return head, found, sums, system


def exact_leverages(x: Tensor, system: Standardised, count: int) -> Tensor:
    z = (x.double() - system.mean) / system.deviation
    return torch.cholesky_solve(z.mT, system.lower).mT.mul(z).sum(1) + 1 / count


def test_left_out_is_solving_without_the_image() -> None:
    x, y = features(3, 5, seed=0, width=6)
    head, _, _, system = learned((x, y))
    got = t_left_out(head(x.double()), exact_leverages(x, system, 15)[:, None], one_hot(y, 3))
    z = torch.cat([torch.ones(15, 1), (x - system.mean.float()) / system.deviation.float()], 1).double()
    penalty = torch.diag(torch.tensor([0.0] + 6 * [10.0], dtype=torch.float64))
    for i in range(15):
        rest = torch.arange(15) != i
        inverse = torch.linalg.inv(z[rest].mT @ z[rest] + penalty)
        value = z[i] @ inverse @ z[rest].mT @ one_hot(y[rest], 3).double()
        torch.testing.assert_close(got[i], value / (z[i] @ inverse @ z[i]).sqrt(), rtol=1e-4, atol=1e-5)


def test_a_typical_image_follows_from_the_sums() -> None:
    x, y = features(10, 30, seed=0)
    head, found, _, system = learned((x, y))
    t = t_left_out(head(x.double()), exact_leverages(x, system, 300)[:, None], one_hot(y, 10))
    assert float(found.typical) == pytest.approx(float(t[torch.arange(300), y].mean()), rel=0.03)


@pytest.mark.parametrize("width", [SKETCH, 3 * SKETCH])
def test_leverages_are_exact_or_nearly_so(width: int) -> None:
    x, y = features(5, 8, seed=0, width=width)
    _, found, _, system = learned((x, y), strength=width / 3)
    fresh = features(5, 40, seed=1, width=width)[0]
    got = found.errors(fresh).square().sum(1) + found.share
    ratio = got.double() / exact_leverages(fresh, system, 40)
    spread = 0 if width == SKETCH else (2 / SKETCH) ** 0.5
    assert float(ratio.mean()) == pytest.approx(1, abs=1e-4 + spread / 3)
    assert float(ratio.std()) == pytest.approx(spread, abs=1e-4 + spread / 3)


def test_false_alarms_and_probabilities_hold_over_many_experiences() -> None:
    """Each of ten experiences of two classes says what is usual; all of it must be true of the last model."""
    alarms, errors, found_out = [], [], []
    strangers = 2.2 * torch.randn(500, 80, generator=torch.Generator().manual_seed(5))
    for seed in range(3):
        x, y = features(20, 20, seed=10 + seed, width=80)
        parts = [(x[(y // 2) == k], y[(y // 2) == k]) for k in range(10)]
        head, found, _, _ = learned(*parts)
        fresh, truth = features(20, 100, seed=50 + seed, width=80)
        probabilities, p_value = found.judge(head(fresh), fresh)
        assert probabilities is not None
        assert p_value is not None
        right = probabilities.argmax(1) == truth
        error = expected_calibration_error(reliability_table(probabilities.amax(1), right.tolist()))
        assert error is not None
        errors.append(error)
        alarms.append(float((p_value <= 0.1).float().mean()))
        unlike = found.judge(head(strangers), strangers)[1]
        assert unlike is not None
        found_out.append(float((unlike <= 0.1).float().mean()))
        assert 0.5 < right.float().mean() < 0.97, "too easy, or too hard, to say something"
    # Of classes that are Gaussian and alike, rather too few: real ones decided how earlier months count.
    assert sum(alarms) / 3 == pytest.approx(0.075, abs=0.035)
    assert max(errors) < 0.1
    assert min(found_out) > 0.5


def test_what_experiences_say_adds_up_and_fades() -> None:
    x, y = features(4, 50, seed=0)
    head, found, _, _ = learned((x, y), quiet=True)
    t = head(x.double())
    whole, parts = found.updated(t, y), found.updated(t[::2], y[::2]).updated(t[1::2], y[1::2])
    assert whole.images == parts.images == 200
    torch.testing.assert_close(parts.losses[50:], whole.losses[50:], rtol=0.1, atol=0)
    torch.testing.assert_close(parts.ood_scores[8:-8], whole.ood_scores[8:-8], rtol=0.05, atol=0.05)
    more = whole.updated(t[:8].repeat(1, 2), y[:8])
    assert more.images == 208
    torch.testing.assert_close(more.losses, whole.losses / 4 + found.updated(t[:8].repeat(1, 2), y[:8]).losses)


def test_what_was_usual_stays_where_images_say_nothing() -> None:
    first, more = features(4, 6, seed=0), features(4, 2, seed=1)
    before = learned(first)[1]
    sums, system = learned(first, more)[2:]
    after = certainty(sums, system, system.solve(sums), None, before, torch.Generator().manual_seed(SEED))
    for field in ("losses", "ood_scores", "images", "classes"):
        assert torch.equal(getattr(before, field), getattr(after, field)), field
    assert not torch.equal(before.typical, after.typical)
    alone = features(3, 1, seed=0)
    _, found, _, _ = learned(alone)
    assert not found.images, "images that are their classes' only ones were asked"
    assert found.judge(torch.zeros(2, 3), alone[0][:2]) == (None, None)
    single = learned(features(1, 5, seed=0))[1]
    assert single.judge(torch.zeros(2, 3), alone[0][:2]) == (None, None)
    assert single.judge(torch.ones(2, 1), alone[0][:2])[0] is None


def test_a_correction_and_a_removal_leave_what_is_usual(backbone: Backbone, blobs: Blobs) -> None:
    learner = StrataLearner(backbone)
    learner.learn(*blobs([0, 1, 2], 6))
    images = blobs([0, 1, 2], 4, seed=1)[0]
    before, usual = learner.predict(images), learner.state.certainty
    assert usual is not None
    learner.correct(blobs([9], 3)[0], 1)
    assert learner.state.certainty is not None
    assert torch.equal(learner.state.certainty.ood_scores, usual.ood_scores)
    forgotten = StrataLearner(backbone)
    forgotten.learn(*blobs([0, 1, 2], 6))
    forgotten.forget(2)
    after = forgotten.predict(images, false_alarm_rate=0.05)
    assert before.p_value is not None
    assert after.p_value is not None
    assert after.unknown is not None
    assert after.probabilities is not None
    torch.testing.assert_close(after.p_value[:8], before.p_value[:8])
    assert after.p_value[8:].mean() < before.p_value[8:].mean() / 2
    assert after.probabilities.shape == (12, 2)


def test_the_likeliest_class_is_the_answer(backbone: Backbone, blobs: Blobs) -> None:
    learner = StrataLearner(backbone)
    learner.learn(*blobs([0, 1, 2], 3))
    found = learner.predict(torch.cat([blobs([0, 1, 2], 4, seed=2)[0], blobs([7, 8], 4)[0]]))
    assert found.probabilities is not None
    assert torch.equal(found.probabilities.argmax(1), found.scores.argmax(1))


def test_a_file_from_before_still_loads(backbone: Backbone, blobs: Blobs, tmp_path: Path) -> None:
    learner, path = StrataLearner(backbone), tmp_path / "model.safetensors"
    learner.learn(*blobs([0, 1], 4))
    learner.save(path)
    again = StrataLearner.load(path, backbone)
    for field in fields(Certainty):
        a, b = (getattr(which.state.certainty, field.name) for which in (learner, again))
        if a is None:
            assert b is None
            continue
        assert torch.equal(a, b) if isinstance(a, Tensor) else torch.equal(a.weight, b.weight), field.name
    tensors, header = model_file.read(path)
    old = {name: tensor for name, tensor in tensors.items() if not name.startswith("state/certainty/")}
    assert len(old) < len(tensors)
    del header["state"]["certainty"]
    model_file.write(path, old, json.loads(json.dumps(header)))
    loaded = StrataLearner.load(path, backbone)
    images = blobs([0, 1], 2, seed=1)[0]
    assert loaded.predict(images).probabilities is None
    assert torch.equal(loaded.predict(images).scores, learner.predict(images).scores)
    with pytest.raises(InputError, match="learned with this version"):
        loaded.predict(images, false_alarm_rate=0.05)
    loaded.learn(*blobs([2], 4))
    assert loaded.predict(images, false_alarm_rate=0.05).probabilities is not None
