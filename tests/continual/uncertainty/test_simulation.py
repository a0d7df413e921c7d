"""What is said of images that are gone: near to what real ones would show, and far from what was learned by heart."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from continual.backbones.loading import Backbone
from continual.methods import method
from continual.seeding import generator
from continual.statistics.ridge import GramStatistics, LinearHead, Standardised
from continual.uncertainty.drawn_values import drawing

Blobs = Callable[..., tuple[Tensor, list[int]]]

WIDTH, CLASSES, OLD = 60, 12, 6


def images(per_class: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
    """Features of classes that overlap, with directions in which all of them vary much."""
    means = 0.7 * torch.randn(CLASSES, WIDTH, generator=generator(0), dtype=torch.float64)
    labels = torch.arange(CLASSES).repeat_interleave(per_class)
    scale = 1.0 + 2.0 * (torch.arange(WIDTH) % 3)
    return means[labels] + scale * torch.randn(len(labels), WIDTH, generator=draw, dtype=torch.float64), labels


def learned(x: Tensor, y: Tensor, classes: int) -> tuple[GramStatistics, LinearHead, Standardised]:
    sums = GramStatistics.of(x, y, classes)
    system = Standardised.of(sums, WIDTH / 3)
    return sums, system.solve(sums), system


@pytest.mark.parametrize("per_class", [6, 20])
def test_the_share_that_breaks_is_that_of_fresh_images(per_class: int) -> None:
    """Of images as they were learned, none would break."""
    x, y = images(per_class, generator(1))
    first = y < OLD
    sums, before, system = learned(x[first], y[first], OLD)
    _, after, system_after = learned(x, y, CLASSES)
    leverages = [
        one.white(x[first]).square().sum(1).mean() + 1 / count
        for one, count in ((system, first.sum()), (system_after, len(y)))
    ]

    def lost(was: Tensor, now: Tensor, truth: Tensor) -> tuple[float, float]:
        right = was.argmax(1) == truth
        return float(right.double().mean()), float((right & (now.argmax(1) != truth)).double().mean())

    fresh, truth = images(300, generator(3))
    fresh, truth = fresh[truth < OLD], truth[truth < OLD]
    real = lost(before(fresh), after(fresh), truth)
    drawn = {}
    for name, known in (("left out", leverages), ("as learned", [torch.zeros(())] * 2)):
        draw = drawing(sums, list(zip((before, after), known, strict=True)))
        parts = [lost(*draw(c, 500, generator(4, c)), torch.full((500,), c)) for c in range(OLD)]
        drawn[name] = [sum(part[i] for part in parts) / OLD for i in (0, 1)]
    assert real[1] > 0.05
    assert drawn["left out"] == pytest.approx(real, abs=0.08)
    assert drawn["as learned"][0] > real[0] + 0.1


def test_answers_of_before_are_of_classes_of_before(backbone: Backbone, blobs: Blobs) -> None:
    learner = method("strata")(backbone)
    learner.learn(*blobs([0, 1, 2], 4))
    before = learner.variant()
    learner.learn(*blobs([3, 4], 4))
    simulation = before.simulation(learner)
    assert simulation is not None
    for index in range(3):
        was, now = simulation(index, 50, generator(0))
        again = simulation(index, 50, generator(0))
        assert torch.equal(torch.stack([was, now]), torch.stack(again))
        assert was.shape == now.shape == (50,)
        assert int(was.max()) < 3
        assert float((was == index).float().mean()) > 0.9
    assert before.simulation(method("strata")(backbone)) is None
