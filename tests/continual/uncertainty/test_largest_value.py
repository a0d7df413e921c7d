"""The unit of the score of unknown images: what is expected of the largest value, and what it keeps true."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

import continual
from continual.backbones.loading import Backbone
from continual.export import numpy_certainty
from continual.methods.ridge import RidgeLearner
from continual.statistics.ridge import GramStatistics, LinearHead, Standardised
from continual.uncertainty.certainty import certainty, largest_left_out
from continual.uncertainty.largest_value import QUANTILE, expected_largest
from continual.uncertainty.left_out import t_left_out
from continual.uncertainty.leverage import Certainty

WIDTH, STRENGTH = 120, 40.0
Blobs = Callable[..., tuple[Tensor, list[int]]]


@pytest.mark.parametrize(("classes", "own"), [(2, 0.7), (5, 0.45), (60, 0.3), (60, 0.05)])
def test_it_is_the_quantile_of_drawn_values(classes: int, own: float) -> None:
    leverage, deviation, draw = 0.04, 0.1, torch.Generator().manual_seed(0)
    means = torch.full((classes,), (1 - own) / (classes - 1), dtype=torch.float64)
    means[0] = own
    squares = float(means.square().sum()) + classes * deviation**2
    values = means + deviation * torch.randn(100_000, classes, generator=draw, dtype=torch.float64)
    values[:, 0] -= leverage
    largest = values.amax(1) / (1 - leverage)
    expected = expected_largest(own, squares, leverage, classes)
    assert float((largest < expected).double().mean()) == pytest.approx(QUANTILE, abs=0.005)


def confused(classes: int, each: int, seed: int) -> tuple[Tensor, Tensor]:
    """Features of classes that overlap so far that the largest of many values is often not the own class's."""
    means = 0.8 * torch.randn(classes, WIDTH, generator=torch.Generator().manual_seed(1))
    own = torch.arange(classes).repeat_interleave(each)
    return means[own] + 3 * torch.randn(len(own), WIDTH, generator=torch.Generator().manual_seed(seed)), own


def learned(x: Tensor, y: Tensor, classes: int) -> tuple[GramStatistics, Standardised, LinearHead]:
    sums = GramStatistics.of(x, y, classes)
    system = Standardised.of(sums, STRENGTH)
    return sums, system, system.solve(sums)


def certain(sums: GramStatistics, system: Standardised, head: LinearHead, *more: object) -> Certainty:
    newest, before = more or (None, None)
    return certainty(sums, system, head, newest, before, torch.Generator().manual_seed(0))  # type: ignore[arg-type]


def test_its_share_of_the_real_quantile_is_nearly_the_same_among_few_classes_and_many() -> None:
    """The typical own t is no such unit: the largest of many values lies further above it."""
    ratios: dict[str, list[float]] = {"largest": [], "typical": []}
    for classes in (6, 60):
        x, y = confused(classes, 6, seed=2)
        sums, system, head = learned(x, y, classes)
        h = system.white(x).square().sum(1) + 1 / len(y)
        t = t_left_out(head(x.double()), h[:, None], one_hot(y, classes)).amax(1).quantile(0.05)
        found = certain(sums, system, head)
        ratios["typical"].append(float(t / found.typical))
        ratios["largest"].append(float(t / found.typical / found.largest))
    spread = {name: abs(np.log(many / few)) for name, (few, many) in ratios.items()}
    assert spread["largest"] < 0.35
    assert spread["typical"] > 1.5 * spread["largest"]


def test_old_and_new_images_count_alike() -> None:
    x, y = confused(8, 10, seed=3)
    first = y < 4
    before = certain(*learned(x[first], y[first], 4), (x[first], y[first]), None)
    alone, after = (certain(*learned(x, y, 8), (x[~first], y[~first]), known) for known in (None, before))
    assert before.images == 40
    assert after.images == 80
    mean = (before.ood_scores.mean() + alone.ood_scores.mean()) / 2
    assert float(after.ood_scores.mean() / mean) == pytest.approx(1, abs=0.002)


def test_quantiles_of_an_older_file_are_brought_to_the_unit() -> None:
    x, y = confused(6, 10, seed=4)
    parts = learned(x, y, 6)
    now = certain(*parts, (x, y), None)
    assert now.largest is not None
    own = {field.name: getattr(now, field.name) for field in fields(now)}
    older = Certainty(**{**own, "largest": None, "ood_scores": now.ood_scores * now.largest})
    found = certain(*parts, None, older)
    assert found.largest is not None
    torch.testing.assert_close(found.ood_scores, now.ood_scores)
    asked = x[:5]
    p_values = [one.judge(parts[2](asked), asked)[1] for one in (older, now)]
    assert p_values[0] is not None
    torch.testing.assert_close(*p_values)


@pytest.mark.parametrize("ages", [(True, True), (True, False), (False, True)])
def test_older_models_are_merged_as_newer_ones_are(backbone: Backbone, blobs: Blobs, ages: tuple[bool, bool]) -> None:
    """Each in units of its own sums: of few classes and of many."""
    parts = [blobs([0, 1], 40), blobs(range(2, 14), 5)]

    def merged(*older: bool) -> Certainty:
        learners = []
        for old, part in zip(older, parts, strict=True):
            learner = RidgeLearner(backbone)  # one row an image: w was 1
            learner.learn(*part)
            found = learner.state.certainty
            assert found is not None
            assert found.largest is not None
            before = replace(found, largest=None, own_weight=None, ood_scores=found.ood_scores * found.largest)
            learner.state = replace(learner.state, certainty=before if old else found)
            learners.append(learner)
        known = continual.merged(learners).state.certainty
        assert known is not None
        return known

    torch.testing.assert_close(merged(*ages).ood_scores, merged(False, False).ood_scores)


def test_what_few_images_said_is_forgotten_where_none_could_be_left_out() -> None:
    x, y = confused(8, 10, seed=7)
    first = y < 4
    before = certain(*learned(x[first], y[first], 4), (x[first], y[first]), None)
    clamped = replace(before, leverage=before.leverage * 0 + 1e6)
    after = certain(*learned(x, y, 8), (x[~first], y[~first]), clamped)
    assert after.images == 40
    assert certain(*learned(x, y, 8), None, clamped).images == 0, "a merge, a correction"
    torch.testing.assert_close(after.ood_scores, certain(*learned(x, y, 8), (x[~first], y[~first]), None).ood_scores)


def test_numpy_finds_the_same() -> None:
    x, y = confused(6, 10, seed=5)
    sums, system, head = learned(x, y, 6)
    torch_found = certain(sums, system, head, (x, y), None)
    arrays = {"sketch": np.eye(WIDTH), "weight": head.weight.numpy(), "bias": head.bias.numpy()}
    arrays |= {name: getattr(torch_found, name).numpy() for name in ("losses", "images")}
    arrays["ood_scores"] = torch_found.ood_scores.numpy() * float(torch_found.largest)
    own = {name: getattr(sums, name).numpy() for name in ("targets", "counts")}
    given = tuple(part.numpy() for part in (system.lower, system.mean, system.deviation))
    found = numpy_certainty.certainty(arrays, own, given, system.penalty, None, None)  # type: ignore[arg-type]
    for name in ("share", "typical", "leverage", "largest", "own_weight", "losses", "ood_scores"):
        np.testing.assert_allclose(found[name], getattr(torch_found, name).numpy(), rtol=1e-9, err_msg=name)


def test_of_many_classes_some_stand_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = confused(60, 6, seed=6)
    sums, system, head = learned(x, y, 60)
    own = ((head.weight * sums.targets).sum() + head.bias @ sums.counts) / len(y)
    leverage = (system.white(x).square().sum(1) + 1 / len(y)).mean()
    exact = largest_left_out(sums, system, head, own, leverage, leverage)
    monkeypatch.setattr("continual.uncertainty.certainty.MOST_COLUMNS", 20)
    some = largest_left_out(sums, system, head, own, leverage, leverage)
    assert float(some / exact) == pytest.approx(1, abs=0.05)
    assert some != exact
