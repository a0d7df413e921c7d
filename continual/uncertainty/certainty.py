"""How sure a regression may be that was just solved: what its sums say, and images left out while they are at hand."""

from __future__ import annotations

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from continual.statistics.ridge import GramStatistics, LinearHead, Standardised
from continual.uncertainty.fewer_views import first_views_left_out
from continual.uncertainty.gaussians import LEVELS
from continual.uncertainty.largest_value import expected_largest
from continual.uncertainty.left_out import Rows, t_left_out, t_left_out_weighted
from continual.uncertainty.leverage import TEMPERATURES, Certainty

MOST_COLUMNS = 1024  #: classes from whose values those of all are estimated
CLAMPED = 1e5  #: a leverage of an image left out that is no estimate any more
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
    # The leverages of all images sum to 1 + tr(I - A^-1 (A - sum x x^T)).
    leverage = ((1 + rows.square().sum() - system.shrunk(drawn)) / count).clamp(1e-6, 1 - 1e-6)
    own = ((readout.weight * sums.targets).sum() + readout.bias @ sums.counts) / count
    # Left out, a typical image keeps at least half of what guessing would give its class.
    typical = t_left_out(torch.maximum(own, leverage + (1 - leverage) / (2 * classes)), leverage, 1.0)
    largest = largest_left_out(sums, system, readout, own, leverage) / typical if classes > 1 else own.new_ones(())
    # What an older file says is usual holds for the older score: that stays until there are images.
    same = before is None or not before.images or before.leverage is not None
    before = None if before is None else before.measured_by(largest)
    zero = own.new_zeros(())
    found = Certainty(
        LinearHead(weight.float().contiguous(), -(system.mean @ weight).float()),
        1 / count,
        typical,
        losses=zero.expand(len(TEMPERATURES)).contiguous() if before is None else before.losses,
        ood_scores=zero.expand(LEVELS).contiguous() if before is None else before.ood_scores,
        images=zero if before is None else before.images,
        classes=zero if before is None else before.classes,
        leverage=leverage / (1 - leverage) if same else None,
        fewer=None if before is None else before.fewer,
        largest=largest if same else None,
    )
    if newest is None:
        return found
    images = newest.several(seen)
    if not len(images.labels):
        return found
    if not same:
        found = replace(found, ood_scores=found.ood_scores[..., :0])
        found = replace(found, leverage=leverage / (1 - leverage), largest=largest)
    shares, labels = images.shares().to(rows), images.labels[:: images.copies]
    weights = None if images.stands_for == 1 else rows.new_full((len(labels),), images.stands_for)
    if sums is seen and images.copies == 1:
        x = ((images.features.to(rows) - system.mean) / system.deviation).mT
        own = torch.linalg.solve_triangular(system.lower, x, upper=False).square().sum(0) + 1 / count
        t = t_left_out(readout(images.features.to(rows)), own[:, None], F.one_hot(labels, classes))
        return found.updated(t, labels, weights, own / (1 - own))
    t, own = t_left_out_weighted(seen, sums, system, readout, images)
    if len(shares) == 1:
        t, own = t[0], own[0]
    each = seen.image_weights(balance)[labels]
    several = images.order is not None and images.order.looked > 1
    first = first_views_left_out(seen, sums, system, readout, images) if several and classes > 1 else None
    return found.updated(t, labels, each if weights is None else each * weights, own, first)


def _obsolete(before: Certainty, newest: Rows | None, classes: int) -> bool:
    """Tell whether what was usual before is worth nothing now.

    Distances from a single class, and values among several, are two scores. Where leverages were clamped, there were
    too few images to leave one out. Older files noted what is usual of all views, where some are looked at.
    """
    clamped = newest is not None and before.leverage is not None and float(before.leverage) > CLAMPED
    partly = before.older and newest is not None and newest.weights is not None
    return before.one_class != (classes < 2) or clamped or partly


def largest_left_out(
    sums: GramStatistics, system: Standardised, readout: LinearHead, own: Tensor, leverage: Tensor
) -> Tensor:
    """Return the largest t () that is expected of an image left out; see `largest_value`.

    Of learned images `own` () is the mean value of their class, and `leverage` () the mean one. The squared values of
    some classes stand for those of many.
    """
    count, classes = sums.counts.sum(), len(sums.counts)
    some = slice(0, None, -(-classes // MOST_COLUMNS))
    weight, even = readout.weight[:, some] * system.deviation[:, None], sums.counts[some] / count
    varying = ((system.lower.mT @ weight).square().sum() - system.shrunk(weight.mT)) / count
    squares = (varying + even.square().sum()) * classes / len(even)
    value = expected_largest(float(own), float(squares), float(leverage), classes)
    return value * ((1 - leverage) / leverage).sqrt()
