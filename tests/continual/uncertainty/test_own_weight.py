"""The unit of leverages left out, h / (1 - w h): what an image's rows weigh, and that the unit has no pole."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor

from continual.statistics.ridge import GramStatistics, Standardised
from continual.uncertainty.certainty import certainty
from continual.uncertainty.gaussians import LEVELS
from continual.uncertainty.left_out import Rows
from continual.uncertainty.leverage import POWER, TEMPERATURES, Certainty, Units

WIDTH, VIEWS = 240, 2
READINGS = torch.tensor([[0.5, 0.5]])


def images(labels: Tensor, seed: int, apart: float = 1.0) -> Tensor:
    """Features (n, 2, WIDTH) of images and their mirror images, which differ by so much noise."""
    draw, means = torch.Generator().manual_seed(seed), torch.Generator().manual_seed(0)
    whole = torch.randn(4, WIDTH, generator=means)[labels] + torch.randn(len(labels), WIDTH, generator=draw)
    return whole[:, None] + apart * torch.randn(len(labels), VIEWS, WIDTH, generator=draw)


def rows_of(features: Tensor, labels: Tensor) -> Rows:
    return Rows(features.flatten(0, 1).double(), labels.repeat_interleave(VIEWS), VIEWS, 1 / VIEWS, READINGS)


def certain(sums: GramStatistics, newest: Rows | None, before: Certainty | None) -> Certainty:
    system = Standardised.of(sums, WIDTH / 3)
    return certainty(sums, system, system.solve(sums), newest, before, torch.Generator().manual_seed(0))


def summed(rows: Rows, classes: int) -> GramStatistics:
    return GramStatistics.of(rows.features, rows.labels, classes).scaled(1 / VIEWS)


@pytest.mark.parametrize(("apart", "least", "most"), [(0.0, 0.99, 1.0), (0.3, 0.8, 0.99), (1.0, 0.5, 0.8)])
def test_rows_that_are_alike_weigh_as_one(apart: float, least: float, most: float) -> None:
    labels = torch.arange(4).repeat_interleave(6)
    rows = rows_of(images(labels, 1, apart), labels)
    found = certain(summed(rows, 4), rows, None)
    assert found.own_weight is not None
    assert least <= float(found.own_weight) <= most


@pytest.mark.parametrize("each", [3, 8, 40])
def test_the_unit_is_a_leverage_of_images_left_out_however_few_there_are(each: int) -> None:
    """The mean leverage of rows that weigh one half is above 1 where images are few: h / (1 - h) is no unit then."""
    labels = torch.arange(2).repeat_interleave(each)
    rows = rows_of(images(labels, 2), labels)
    sums = summed(rows, 2)
    system = Standardised.of(sums, WIDTH / 3)
    found = certain(sums, rows, None)
    left = rows_of(images(labels, 3), labels).features.unflatten(0, (-1, VIEWS)).mean(1)
    others = system.white(left).square().sum(1) + 1 / sums.counts.sum()  # those of images that were never learned
    assert found.leverage is not None
    assert float(found.leverage / others.median()) == pytest.approx(1, abs=0.35)


@pytest.mark.parametrize("classes", [1, 2])
def test_what_is_usual_stays_true_when_small_models_are_merged(classes: int) -> None:
    both = [torch.arange(classes).repeat_interleave(8 // classes)] * 2
    parts = [rows_of(images(labels, seed), labels) for seed, labels in enumerate(both, 4)]
    sums = [summed(rows, classes) for rows in parts]
    one, other = (certain(own, rows, None) for own, rows in zip(sums, parts, strict=True))
    whole = sums[0].plus(sums[1])
    known = certain(whole, None, one.plus(other))
    assert known.images == 16
    new = images(torch.arange(classes).repeat_interleave(100), 9).mean(1)
    if classes == 1:
        anomaly = known.anomaly(new)
        assert anomaly is not None
        assert float(anomaly.median()) == pytest.approx(1, abs=0.2)  # 10,000 in units of h / (1 - h)
        return
    values = Standardised.of(whole, WIDTH / 3).solve(whole)(new)
    p_value = known.judge(values, new)[1]
    assert p_value is not None
    assert float((p_value <= 0.2).float().mean()) <= 0.45  # all of them, in units of h / (1 - h)


def test_what_an_older_file_says_is_brought_to_the_units() -> None:
    draw = torch.Generator().manual_seed(7)
    t, leverage = torch.randn(200, 3, generator=draw).double() + 2, torch.rand(200, generator=draw).double() + 0.5
    labels, known = torch.arange(200) % 3, certain(*_some())
    was, now = (Units(*(torch.tensor(v).double() for v in values)) for values in ((0.5, 3.0, 2.0), (1.58, 1.2, 1.7)))

    def measured(units: Units) -> Certainty:
        empty = replace(known, ood_scores=torch.zeros(0).double(), images=known.images * 0, losses=known.losses * 0)
        found = replace(empty, typical=units.typical, leverage=units.leverage, largest=units.largest)
        return found.updated(t, labels, None, leverage)

    found = replace(measured(was), own_weight=None).measured_by(now, was)
    torch.testing.assert_close(found.ood_scores, measured(now).ood_scores)
    assert found.ood_scores.shape == (LEVELS,)
    places = [int(one.losses.argmin()) for one in (found, measured(now))]
    assert abs(places[0] - places[1]) <= 1, "a place of the grid"
    older = replace(measured(was), own_weight=None, largest=None)
    older = replace(older, ood_scores=older.ood_scores * was.largest)
    torch.testing.assert_close(older.measured_by(now, was).ood_scores, measured(now).ood_scores)
    assert POWER > 0.5
    assert len(found.losses) == len(TEMPERATURES)


def _some() -> tuple[GramStatistics, Rows, None]:
    labels = torch.arange(3).repeat_interleave(5)
    rows = rows_of(images(labels, 1), labels)
    return summed(rows, 3), rows, None
