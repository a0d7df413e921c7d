"""How sure a regression may be that was just solved: what its sums say, and images left out while they are at hand."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from continual.statistics.ridge import GramStatistics, LinearHead, Standardised
from continual.uncertainty.fewer_views import first_views_left_out
from continual.uncertainty.gaussians import LEVELS
from continual.uncertainty.largest_value import expected_largest
from continual.uncertainty.left_out import Rows, t_left_out, t_left_out_weighted
from continual.uncertainty.leverage import TEMPERATURES, Certainty, Units

MOST_COLUMNS = 1024  #: classes from whose values those of all are estimated
CLAMPED = 1e4  #: a leverage of an image left out that is no estimate any more
SKETCH = 256  #: numbers from which a leverage is estimated, to 9 %, where there are more features


def certainty(
    sums: GramStatistics,
    system: Standardised,
    readout: LinearHead,
    newest: tuple[Tensor, Tensor] | Rows | None,
    before: Certainty | None,
    generator: torch.Generator,
    balance: float = 0.0,
    weighted: GramStatistics | None = None,
) -> Certainty:
    """Return how sure a map may be that was solved by the system of the sums, `GramStatistics.balanced` or as they are.

    `newest` are features (n, D') that the sums hold, with class indices (n,), or `Rows`; None leaves what is usual as
    it was `before`. An image that is its class's only one says nothing. `generator` (of the CPU) draws the sketch. What
    is usual is so of images that come from the classes as often as these weigh.
    `weighted` are the balanced sums, where they are known.
    """
    seen, sums = sums, sums.balanced(balance) if weighted is None else weighted
    newest = None if newest is None else Rows(*newest)
    if before is not None and _obsolete(before, newest, len(sums.counts)):
        before = None
    count, width, classes = sums.counts.sum(), len(system.mean), len(sums.counts)
    wide = width > SKETCH
    rows = torch.randn(SKETCH, width, generator=generator) / SKETCH**0.5 if wide else torch.eye(width)
    rows = rows.to(sums.total)
    drawn = torch.linalg.solve_triangular(system.lower, rows, upper=False, left=False)
    weight = (drawn / system.deviation).mT
    errors = LinearHead(weight.float().contiguous(), -(system.mean @ weight).float())
    # The leverages of all rows sum to 1 + tr(I - A^-1 (A - sum x x^T)).
    leverage = ((1 + rows.square().sum() - system.shrunk(drawn)) / count).clamp(min=1e-6)
    own = ((readout.weight * sums.targets).sum() + readout.bias @ sums.counts) / count

    def units(own_weight: Tensor) -> Units:
        share = (own_weight * leverage).clamp(1e-6, 1 - 1e-6)
        # Left out, a typical image keeps at least half of what guessing would give its class.
        kept = torch.maximum(own, share + (1 - share) / (2 * classes))
        typical = t_left_out(kept, share, 1.0) * (share / leverage).sqrt()
        largest = largest_left_out(sums, system, readout, own, leverage, share) if classes > 1 else typical
        return Units(typical, leverage / (1 - share), largest / typical)

    left = None if newest is None else _left_out(seen, sums, system, readout, newest, balance)
    zero, alone = own.new_zeros(()), own.new_ones(())
    own_weight = alone if before is None or before.own_weight is None else before.own_weight
    if left is not None:
        found_weight, so_far = left.own_weight(errors, 1 / count), zero if before is None else before.images
        own_weight = (so_far * own_weight + left.weights.sum() * found_weight) / (so_far + left.weights.sum())
    # What an older file says is usual holds for the older score: that stays until there are images.
    same = before is None or not before.images or before.leverage is not None
    now = units(own_weight)
    if before is not None and before.older:
        before = before.measured_by(now, was=units(alone))
    found = Certainty(
        errors,
        1 / count,
        now.typical,
        losses=zero.expand(len(TEMPERATURES)).contiguous() if before is None else before.losses,
        ood_scores=zero.expand(LEVELS).contiguous() if before is None else before.ood_scores,
        images=zero if before is None else before.images,
        classes=zero if before is None else before.classes,
        leverage=now.leverage if same else None,
        fewer=None if before is None else before.fewer,
        largest=now.largest if same else None,
        own_weight=own_weight if same else None,
    )
    if left is None:
        return found
    if not same:
        found = replace(found, ood_scores=found.ood_scores[..., :0])
        found = replace(found, leverage=now.leverage, largest=now.largest, own_weight=own_weight)
    several = left.images.order is not None and left.images.order.looked > 1 and classes > 1
    first = first_views_left_out(seen, sums, system, readout, left.images) if several else None
    one = len(left.t) == 1
    t, leverages = (left.t[0], left.leverages[0]) if one else (left.t, left.leverages)
    return found.updated(t, left.labels, left.weights, leverages, first)


class LeftOut(NamedTuple):
    """Images as if they had not been learned, in the R ways in which they may be asked about."""

    images: Rows
    labels: Tensor  #: (n,)
    t: Tensor  #: (R, n, C)
    leverages: Tensor  #: (R, n)
    weights: Tensor  #: (n,), what each counts for

    def own_weight(self, errors: LinearHead, share: Tensor) -> Tensor:
        """Return the w () for which h / (1 - w h) is the leverage of an image left out, of h of its rows, in the mean.

        It is 1 where each image is one row, or its rows are alike, and less the more they differ. `errors` gives the
        leverages less `share` ().
        """
        if self.images.copies == 1:
            return share.new_ones(())
        rows = errors(self.images.features.to(errors.weight)).square().sum(-1).to(share) + share
        each = 1 / rows.unflatten(0, (-1, self.images.copies)).mean(1) - 1 / self.leverages
        return ((each * self.weights).sum(-1) / self.weights.sum()).mean().clamp(1 / self.images.copies, 1)


def _left_out(
    seen: GramStatistics, sums: GramStatistics, system: Standardised, readout: LinearHead, newest: Rows, balance: float
) -> LeftOut | None:
    """Return the newest images left out; None if each is its class's only one."""
    images = newest.several(seen)
    if not len(images.labels):
        return None
    labels = images.labels[:: images.copies]
    each = system.lower.new_full((len(labels),), images.stands_for)
    if sums is seen and images.copies == 1:
        features, count = images.features.to(system.lower), sums.counts.sum()
        x = ((features - system.mean) / system.deviation).mT
        own = torch.linalg.solve_triangular(system.lower, x, upper=False).square().sum(0) + 1 / count
        t = t_left_out(readout(features), own[:, None], F.one_hot(labels, len(sums.counts)))
        return LeftOut(images, labels, t[None], (own / (1 - own))[None], each)
    t, leverages = t_left_out_weighted(seen, sums, system, readout, images)
    return LeftOut(images, labels, t, leverages, each * seen.image_weights(balance)[labels])


def _obsolete(before: Certainty, newest: Rows | None, classes: int) -> bool:
    """Tell whether what was usual before is worth nothing now.

    Distances from a single class, and values among several, are two scores. Where leverages were clamped, there were
    too few images to leave one out. Older files noted what is usual of all views, where some are looked at.
    """
    clamped = before.leverage is not None and float(before.leverage) > CLAMPED
    partly = before.older and newest is not None and newest.weights is not None
    return before.one_class != (classes < 2) or clamped or partly


def largest_left_out(
    sums: GramStatistics, system: Standardised, readout: LinearHead, own: Tensor, leverage: Tensor, share: Tensor
) -> Tensor:
    """Return the largest t () that is expected of an image left out; see `largest_value`.

    Of learned images `own` () is the mean value of their class, `leverage` () the mean one, and `share` () what an
    image's own rows make of its value. The squared values of some classes stand for those of many.
    """
    count, classes = sums.counts.sum(), len(sums.counts)
    some = slice(0, None, -(-classes // MOST_COLUMNS))
    weight, even = readout.weight[:, some] * system.deviation[:, None], sums.counts[some] / count
    varying = ((system.lower.mT @ weight).square().sum() - system.shrunk(weight.mT)) / count
    squares = (varying + even.square().sum()) * classes / len(even)
    value = expected_largest(float(own), float(squares), float(share), classes)
    return value * ((1 - share) / leverage).sqrt()
