"""Images left out in closed form, against solving without them: one view or several, cosines, plain regressions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, one_hot

from continual.statistics.head import Prototypes, updated
from continual.statistics.ridge import GramStatistics, LinearHead, Standardised, plainly_solved
from continual.uncertainty import left_out
from continual.uncertainty.certainty import certainty
from continual.uncertainty.left_out import Rows, cosines_left_out, t_left_out_weighted, values_left_out
from continual.uncertainty.leverage import LEVELS

CLASSES, WIDTH = 3, 6


def views(counts: tuple[int, ...], each: int) -> tuple[Tensor, Tensor]:
    """Features (n, each, D) of images, several views of each, and class indices (n,)."""
    draw = torch.Generator().manual_seed(len(counts) + each)
    labels = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))
    means = torch.randn(len(counts), WIDTH, generator=draw)
    images = means[labels] + 0.7 * torch.randn(len(labels), WIDTH, generator=draw)
    return (images[:, None] + 0.3 * torch.randn(len(labels), each, WIDTH, generator=draw)).double(), labels


def as_rows(x: Tensor, y: Tensor, readings: Tensor | None = None) -> tuple[Rows, GramStatistics]:
    each = x.shape[1]
    rows = Rows(x.flatten(0, 1), y.repeat_interleave(each), each, 1 / each, readings)
    return rows, GramStatistics.of(rows.features, rows.labels, CLASSES).scaled(1 / each)


@pytest.mark.parametrize("balance", [0.0, 1.0])
@pytest.mark.parametrize("counts", [(5, 5, 5), (3, 7, 4)])
@pytest.mark.parametrize("each", [1, 2, 3])
def test_views_of_an_image_are_left_out_together(each: int, counts: tuple[int, ...], balance: float) -> None:
    """The regression without all views of an image, asked about one of them or about their mean."""
    x, y = views(counts, each)
    readings = torch.cat([torch.eye(each)[:1], torch.full((1, each), 1 / each)])
    rows, seen = as_rows(x, y, readings)
    sums = seen.balanced(balance)
    system = Standardised.of(sums, 3.0)
    t, leverages = t_left_out_weighted(seen, sums, system, system.solve(sums), rows)
    z, w = x / system.deviation, sums.counts
    for i in range(len(y)):
        rest = torch.arange(len(y)) != i
        own, labels = z[rest], y[rest]
        means = torch.stack([own[labels == c].flatten(0, 1).mean(0) for c in range(CLASSES)])
        gaps = (own - means[labels][:, None]).flatten(0, 1)
        mean = (w[:, None] * means).sum(0) / w.sum()
        apart = means - mean
        inverse = torch.linalg.inv(gaps.mT @ gaps / each + apart.mT @ (w[:, None] * apart) + 3 * torch.eye(WIDTH))
        for reading, share in enumerate(readings.double()):
            asked = share @ z[i] - mean
            value = w / w.sum() + asked @ inverse @ (w[:, None] * apart).mT
            leverage = 1 / w.sum() + asked @ inverse @ asked
            torch.testing.assert_close(leverages[reading, i], leverage, rtol=1e-6, atol=1e-7)
            torch.testing.assert_close(t[reading, i], value / leverage.sqrt(), rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("each", [1, 2])
def test_wide_features_are_left_out_in_parts(each: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, seen = as_rows(*views((3, 7, 4), each))
    sums = seen.balanced(1.0)
    system = Standardised.of(sums, 3.0)
    asked = seen, sums, system, system.solve(sums), rows
    whole = t_left_out_weighted(*asked)
    monkeypatch.setattr(left_out, "WIDE", WIDTH - 1)
    monkeypatch.setattr(left_out, "PART", 3 * each * WIDTH)
    torch.testing.assert_close(t_left_out_weighted(*asked), whole, rtol=1e-12, atol=1e-12)


def test_an_image_does_not_vouch_for_its_own_views() -> None:
    """Views that are copies: what is usual is the same as of the images alone, and so are counts and answers."""
    x, y = views((6, 6, 6), 1)
    once, twice = as_rows(x, y), as_rows(x.repeat(1, 2, 1), y)
    assert torch.equal(once[1].counts, twice[1].counts)
    found = []
    for rows, sums in (once, twice):
        system = Standardised.of(sums, 3.0)
        head = system.solve(sums)
        found.append(t_left_out_weighted(sums, sums, system, head, rows))
        assert certainty(sums, system, head, rows, None, torch.Generator().manual_seed(0)).images == len(y)
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two)


def test_there_is_something_usual_for_every_reading() -> None:
    """An image alone is further off than the mean over its views: its own temperature, its own quantiles."""
    x, y = views((9, 9, 9), 2)
    rows, sums = as_rows(x, y, torch.tensor([[1.0, 0.0], [0.5, 0.5]]))
    system = Standardised.of(sums, 3.0)
    head = system.solve(sums)
    found = certainty(sums, system, head, rows, None, torch.Generator().manual_seed(0))
    assert found.ood_scores.shape == (2, LEVELS)
    one, both = (found.judge(head(x[:, 0].float()), x[:, 0].float(), reading) for reading in (0, 1))
    assert one[0] is not None
    assert both[0] is not None
    assert not torch.equal(one[0], both[0])
    again = certainty(sums, system, head, rows, found, torch.Generator().manual_seed(0))
    assert again.images == 2 * len(y)
    torch.testing.assert_close(again.ood_scores, found.ood_scores, rtol=0.2, atol=0.05)


def test_plain_regressions_are_solved_without_the_image() -> None:
    x, y = views((4, 6, 5), 2)
    rows = Rows(x.flatten(0, 1), y.repeat_interleave(2), 2)
    sums = GramStatistics.of(rows.features, rows.labels, CLASSES)
    head, lower = plainly_solved(sums, 2.0)
    values, labels, _ = values_left_out(rows, torch.ones(len(rows.labels)).double(), lower, head)
    assert torch.equal(labels, y)
    for i in range(len(y)):
        rest = (torch.arange(len(y)) != i).repeat_interleave(2)
        own, targets = rows.features[rest], one_hot(rows.labels[rest], CLASSES).double()
        weight = torch.linalg.solve(own.mT @ own + 2 * torch.eye(WIDTH), own.mT @ targets)
        torch.testing.assert_close(values[i], (x[i] @ weight).mean(0))


@pytest.mark.parametrize("copies", [1, 2])
def test_prototypes_are_made_without_the_image(copies: int) -> None:
    x, y = (part.float() if part.is_floating_point() else part for part in views((4, 2, 1), copies))
    features, targets = x.flatten(0, 1), y.repeat_interleave(copies)
    found, labels = cosines_left_out(features, targets, updated(None, features, targets, CLASSES), copies)
    assert labels.tolist() == [0, 0, 0, 0, 1, 1], "a class's only image was asked"
    for i in range(6):
        rest = torch.arange(len(y)) != i
        means = torch.stack([x[rest & (y == c)].flatten(0, 1).mean(0) for c in range(CLASSES)])
        expected = cosine_similarity(x[i].mean(0)[None], means)
        torch.testing.assert_close(found[i], expected, rtol=1e-4, atol=1e-5)
    spaces = cosines_left_out(torch.stack([features, -features]), targets, updated_twice(features, targets), copies)[0]
    torch.testing.assert_close(spaces[1], found)


def updated_twice(features: Tensor, targets: Tensor) -> Prototypes:
    one = updated(None, features, targets, CLASSES)
    return Prototypes(torch.stack([one.mean, -one.mean]), torch.stack([one.count, one.count]))


def test_files_of_before_keep_their_score_until_they_learn() -> None:
    x, y = views((8, 8, 8), 1)
    rows, sums = as_rows(x, y)
    system = Standardised.of(sums, 3.0)
    head: LinearHead = system.solve(sums)
    draw = torch.Generator().manual_seed(0)
    now = certainty(sums, system, head, rows, None, draw)
    fields = {name: getattr(now, name) for name in vars(now) if name in now.__dataclass_fields__}
    before = type(now)(**{**fields, "leverage": None})
    asked = x[:, 0].float()
    t = head(asked) / (now.errors(asked).square().sum(-1) + now.share).sqrt()[:, None].float() / now.typical.float()
    torch.testing.assert_close(before.unlike(t, t[:, 0]), -t.amax(-1))
    solved = certainty(sums, system, head, None, before, draw)
    assert solved.leverage is None
    assert torch.equal(solved.ood_scores, before.ood_scores)
    learned = certainty(sums, system, head, rows, before, draw)
    assert learned.leverage is not None
    torch.testing.assert_close(learned.ood_scores, now.ood_scores)
    assert learned.images == 2 * len(y)
    mixed = before.plus(now)
    assert mixed.leverage is not None
    torch.testing.assert_close(mixed.ood_scores, now.ood_scores)
