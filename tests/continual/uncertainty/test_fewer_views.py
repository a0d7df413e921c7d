"""What is usual of an image's first views: against leaving it out one by one, and the mean that is asked for."""

from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest
import torch
from torch import Tensor

from continual.statistics.ridge import GramStatistics, Standardised
from continual.uncertainty import fewer_views
from continual.uncertainty.certainty import certainty
from continual.uncertainty.fewer_views import FewerViews, first_views_left_out, lead
from continual.uncertainty.gaussians import LEVELS
from continual.uncertainty.left_out import Rows, ViewOrder, t_left_out_weighted
from continual.uncertainty.leverage import Certainty

CLASSES, WIDTH, VIEWS = 3, 6, 4


@pytest.fixture
def rows() -> Rows:
    """12 images of four views of two rows each: a view and its mirror image."""
    draw = torch.Generator().manual_seed(3)
    labels = torch.arange(CLASSES).repeat_interleave(4)
    means = torch.randn(CLASSES, WIDTH, generator=draw)
    noise = torch.randn(len(labels), VIEWS * 2, WIDTH, generator=draw)
    features = (means[labels][:, None] + noise).double().flatten(0, 1)
    places = torch.stack([torch.randperm(VIEWS, generator=draw) for _ in labels]).repeat_interleave(2, 1).flatten()
    readings = torch.tensor([[1.0, 0.0], [0.5, 0.5]]).repeat(1, VIEWS) / VIEWS
    order = ViewOrder(places, VIEWS, VIEWS)
    return Rows(features, labels.repeat_interleave(VIEWS * 2), VIEWS * 2, 1 / 8, readings, order=order)


def first(rows: Rows, looked: int) -> Rows:
    """Return the images asked about by their first views."""
    assert rows.order is not None
    weights = (rows.order.places < looked)[None] * (VIEWS / looked)
    return rows._replace(weights=weights, order=rows.order._replace(looked=looked))


@pytest.mark.parametrize("at_once", [2**22, 1])
@pytest.mark.parametrize("looked", [2, 4])
def test_first_views_are_means_over_those_that_come_first(
    rows: Rows, looked: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fewer_views, "VALUES", at_once)
    assert rows.order is not None
    rows = rows._replace(order=rows.order._replace(looked=looked))
    seen = GramStatistics.of(rows.features, rows.labels, CLASSES).scaled(1 / 8)
    system = Standardised.of(seen, 2.0)
    asked = seen, seen, system, system.solve(seen)
    found = first_views_left_out(*asked, rows)
    assert found.leads.shape == (2, looked - 1, 12)
    places = rows.order.places.unflatten(0, (-1, 8))
    best = torch.full((2, 12), -inf, dtype=torch.float64)
    for k in range(1, looked):
        for image in range(12):
            chosen = (places[image] < k).double()
            mirrors = torch.tensor([0.0, 1.0]).repeat(VIEWS).double()
            shares = torch.stack([chosen * (1 - mirrors) / k, chosen / (2 * k)])
            t, leverages = t_left_out_weighted(*asked, rows._replace(readings=shares))
            torch.testing.assert_close(found.t[:, k - 1, image], t[:, image])
            torch.testing.assert_close(found.leverages[:, k - 1, image], leverages[:, image])
            best[:, image] = torch.maximum(best[:, image], lead(t[:, image], k, looked))
        torch.testing.assert_close(found.leads[:, k - 1], best)


def test_what_is_usual_is_so_of_the_views_that_are_looked_at(rows: Rows) -> None:
    """A frame answers by some of the views that were learned: their mean varies more than that of all."""
    assert rows.order is not None
    frame = first(rows, 2)
    seen = GramStatistics.of(rows.features, rows.labels, CLASSES).scaled(1 / 8)
    system = Standardised.of(seen, 2.0)
    head = system.solve(seen)

    def usual(given: Rows) -> Tensor:
        return certainty(seen, system, head, given, None, torch.Generator().manual_seed(0)).ood_scores

    by_hand = []
    for places, image in zip(rows.order.places.unflatten(0, (-1, 8)), rows.features.unflatten(0, (-1, 8)), strict=True):
        by_hand.append(torch.cat([image[places < 2], image[places >= 2]]))
    shares = torch.tensor([[1.0, 0.0] * 2 + [0.0] * 4, [0.5] * 4 + [0.0] * 4]) / 2
    asked = rows._replace(features=torch.cat(by_hand), readings=shares, order=None)
    torch.testing.assert_close(usual(frame), usual(asked))
    assert not torch.allclose(usual(frame), usual(rows), rtol=0.02)


def test_what_is_usual_is_so_of_views_as_they_are_weighed(rows: Rows) -> None:
    """Left out is an image with all its rows; asked about is their mean, weighed by what each image says of them."""
    draw = torch.Generator().manual_seed(1)
    shares = torch.rand(12, 8, generator=draw).double().softmax(1)
    weighed = rows._replace(readings=None, order=None, weights=8 * shares.flatten()[None])
    seen = GramStatistics.of(rows.features, rows.labels, CLASSES).scaled(1 / 8)
    system = Standardised.of(seen, 2.0)
    t, leverages = t_left_out_weighted(seen, seen, system, system.solve(seen), weighed)
    assert t.shape == (1, 12, CLASSES)
    for image in range(12):
        alike = weighed._replace(readings=shares[image, None], weights=None)
        by_hand, own = t_left_out_weighted(seen, seen, system, system.solve(seen), alike)
        torch.testing.assert_close(t[:, image], by_hand[:, image])
        torch.testing.assert_close(leverages[:, image], own[:, image])


def test_what_an_older_file_noted_of_all_views_is_forgotten_where_some_are_looked_at(rows: Rows) -> None:
    seen = GramStatistics.of(rows.features, rows.labels, CLASSES).scaled(1 / 8)
    system = Standardised.of(seen, 2.0)

    def noted(looked: int, before: Certainty | None) -> Certainty:
        images = first(rows, looked) if looked < VIEWS else rows
        draw = torch.Generator().manual_seed(0)
        return certainty(seen, system, system.solve(seen), images, before, draw)

    older = replace(noted(VIEWS, None), largest=None)
    assert noted(VIEWS, older).images == 24
    assert noted(2, older).images == 12
    assert noted(2, noted(2, None)).images == 24


def test_a_lead_counts_for_more_the_less_is_to_come() -> None:
    t = torch.tensor([[3.0, 1.0, 2.0]])
    assert float(lead(t, 1, 4)) == pytest.approx(1 / 0.75**0.5)
    assert float(lead(t, 2, 4)) == pytest.approx(2.0)
    assert float(lead(t, 4, 4)) == inf
    assert lead(t[:, :1], 1, 4).tolist() == [inf]


def test_the_limit_is_the_largest_that_keeps_to_the_mean() -> None:
    first = torch.linspace(0, 1, LEVELS, dtype=torch.float64)
    leads = torch.stack([first, first + 0.5])[None]  # half of the images are left after one view, fewer after two
    usual = FewerViews(leads, torch.zeros(1, 2, 161), leads)
    for views, limit in ((1.1, 0.1), (1.5, 0.5), (2.0, 0.75), (2.999, 1.5)):
        found = usual.limit(0, views)
        assert found == pytest.approx(limit, abs=2e-3)
        assert 1 + float((leads[0] < found).double().mean(1).sum()) <= views
        assert not (leads == found).any()  # rounding does not decide
    assert usual.limit(0, 3.0) == inf
    assert usual.limit(5, 1.5) == usual.limit(0, 1.5)  # there is one reading


def test_what_earlier_images_said_counts_as_often_as_they_are() -> None:
    low, high = torch.zeros(1, 2, LEVELS).double(), torch.ones(1, 2, LEVELS).double()
    one, other = FewerViews(low, torch.zeros(1, 2, 161), low), FewerViews(high, torch.ones(1, 2, 161), high)
    found = one.joined(torch.tensor(30.0), other, torch.tensor(10.0))
    assert float(found.leads.mean()) == pytest.approx(0.25, abs=0.01)
    assert float(found.ood_scores.mean()) == pytest.approx(0.25, abs=0.01)
    assert found.losses.eq(1).all()
    longer = FewerViews(*(torch.zeros(1, 3, n).double() for n in (LEVELS, 161, LEVELS)))
    assert one.joined(torch.tensor(30.0), longer, torch.tensor(10.0)) is one
    assert one.joined(torch.tensor(30.0), None, 0.0) is one


def test_shapes_of_other_readings_are_refused() -> None:
    ways = torch.zeros(2, 3, LEVELS), torch.zeros(2, 3, 161)
    FewerViews(ways[0], ways[1], ways[0]).check_shapes()
    for wrong in ((ways[0][0], ways[1], ways[0]), (ways[0], ways[1][:1], ways[0]), (ways[0][..., :9], *ways[::-1])):
        with pytest.raises(ValueError, match="quantiles"):
            FewerViews(*wrong).check_shapes()
