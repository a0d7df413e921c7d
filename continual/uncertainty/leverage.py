"""How sure a ridge regression may be of its values: calibrated probabilities, and what is unlike all images seen.

The value f_c of an image x has a standard error proportional to the root of its leverage, h = 1/n + x^T A^-1 x with x
standardised and A the Gram matrix with the penalty on its diagonal. t_c = f_c / sqrt(h) is the value in standard
errors, and softmax(t / T) are probabilities. The lower max f / h^POWER, the more unlike every class an image is: its
leverage is a Mahalanobis distance to the mean of all images, large for what is far away in whatever direction. Of a
single class f is 1, and the leverage alone is left: how unusual an image is (`Certainty.anomaly`).

Images that were learned are predicted better than others. So T and what is usual are leave-one-out estimates in closed
form, while their features are still in memory: values become (f - h y) / (1 - h), leverages h / (1 - h) (Allen,
Technometrics 1974). Of earlier experiences a curve over T and quantiles are kept, in units that follow from the sums at
any time, so that what was kept stays true while more classes come: the curve in those of a typical own t (with the mean
leverage for each image's: Golub, Heath and Wahba, Technometrics 1979), quantiles in those of the largest t that is
expected (`largest_value`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from continual.statistics.fields import expect_shapes
from continual.statistics.ridge import GramStatistics, LinearHead, Standardised
from continual.uncertainty.fewer_views import FewerViews, FirstViews, first_views_left_out
from continual.uncertainty.gaussians import LEVELS, joint_quantiles, p_value
from continual.uncertainty.largest_value import expected_largest
from continual.uncertainty.left_out import Rows, t_left_out, t_left_out_weighted
from continual.uncertainty.temperature import fading, losses_of
from continual.uncertainty.tempering import agreeing

POWER = 1.25  #: of the leverage in the score of unknown images; 0.5, as in t, in older files
MOST_COLUMNS = 1024  #: classes from whose values those of all are estimated
SKETCH = 256  #: numbers from which a leverage is estimated, to 9 %, where there are more features
#: what T is chosen from, in units of a typical own t
TEMPERATURES = 10 ** torch.linspace(-2, 2, 161, dtype=torch.float64)


@dataclass(frozen=True)
class Certainty:
    """What is usual of a regression's values. All are tensors.

    Where images may be asked about in several ways (`Rows.readings`), `losses` and `ood_scores` have a row for each.
    """

    errors: LinearHead  #: features (B, D') to (B, k), the squares of which sum to the leverage less 1/n
    share: Tensor  #: (), 1/n
    typical: Tensor  #: (), the own t of an image left out
    losses: Tensor  #: cross-entropy at each of TEMPERATURES, a sum over images left out
    ood_scores: Tensor  #: (LEVELS,), quantiles of the score of the same, ascending
    images: Tensor  #: (), how many those count for; 0 where nothing is known
    classes: Tensor  #: (), how many were known then
    leverage: Tensor | None = None  #: (), of an image left out, the unit of h in the score; None: the score is -max t
    fewer: FewerViews | None = None  #: the same of means over an image's first views, where it may have several
    largest: Tensor | None = None  #: (), the unit of t in the score, in units of a typical one; None in older files: 1

    def check_shapes(self) -> None:
        """Raise ValueError unless numbers are single, and curves and quantiles have as many as are kept."""
        expect_shapes(self, share=(), typical=(), images=(), classes=(), leverage=(), largest=())
        readings = self.losses.shape[:-1]
        if len(readings) > 1:
            raise ValueError(f"losses are of shape {tuple(self.losses.shape)}: a row is kept of each reading")
        expect_shapes(self, losses=(*readings, len(TEMPERATURES)), ood_scores=(*readings, LEVELS))
        if self.fewer is not None:
            expect_shapes(self.fewer, losses=(*self.fewer.losses.shape[:-1], len(TEMPERATURES)))

    @cached_property
    def one_class(self) -> bool:
        """Whether what is usual was found among images of a single class."""
        return 0 < float(self.classes) < 2

    @cached_property
    def temperatures(self) -> list[float]:
        """The likeliest T of each reading, in units of a typical own t; none where nothing is known."""
        losses = [*self.losses.reshape(-1, len(TEMPERATURES))] if self.images else []
        return [float(TEMPERATURES[int(of_reading.argmin())]) for of_reading in losses]

    def judge(
        self, values: Tensor, features: Tensor, reading: int = 0, views: int | None = None
    ) -> tuple[Tensor | None, Tensor | None]:
        """Return the probabilities (B, C) and the p-value (B,) of values (B, C) and their features (B, D').

        Features are means over so many of an image's `views`; None: over all that are looked at.
        See `continual.learning.state.Prediction`. None where nothing is known; a single class has no probabilities.
        """
        single = values.shape[1] < 2
        if not self.temperatures or single != self.one_class:
            return None, None
        reading = min(reading, len(self.temperatures) - 1)
        t, leverage = self.t(values, features)
        temperature, usual = self.temperatures[reading], self._usual(reading)
        if views is not None and self.fewer is not None:
            temperature = float(TEMPERATURES[int(self.fewer.losses[reading, views - 1].argmin())])
            usual = self.fewer.ood_scores[reading, views - 1]
        probabilities = None if single else agreeing((t / temperature).softmax(-1), values)
        return probabilities, p_value(usual.to(values), self.unlike(t, leverage))

    def leverages(self, features: Tensor) -> Tensor:
        """Return the leverages (B,) of features (B, D')."""
        return self.errors(features).square().sum(-1) + self.share.to(features)

    def anomaly(self, features: Tensor, reading: int = 0) -> Tensor | None:
        """Return how unusual features (B, D') of a single class are, (B,); None where nothing is known.

        It is the leverage, a squared distance, in units of the median of images of the class left out, in this reading.
        """
        if not (self.temperatures and self.one_class) or self.leverage is None:
            return None
        return self.leverages(features) / (self.leverage * self._distance(LEVELS // 2, reading)).to(features)

    def anomaly_threshold(self, false_alarm_rate: float, reading: int = 0) -> float:
        """Return the `anomaly` above which the p-value of an image is at most this rate; infinite for a tiny one."""
        place = math.ceil((1 + LEVELS) * (1 - false_alarm_rate)) - 1
        found = self._distance(min(place, LEVELS - 1), reading) / self._distance(LEVELS // 2, reading)
        return float(found) if place < LEVELS else math.inf

    def _distance(self, place: int, reading: int) -> Tensor:
        """Return a quantile () of the leverages of a single class's images left out, in units of `leverage`."""
        return (-self._usual(reading)[place]).clamp(min=1e-12) ** (-1 / POWER)  # the score is -leverage^-POWER

    def _usual(self, reading: int) -> Tensor:
        return self.ood_scores.reshape(-1, LEVELS)[min(reading, len(self.temperatures) - 1)]

    def t(self, values: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return t (B, C), in units of the typical one, of values (B, C) of features (B, D'), and leverages (B,)."""
        leverage = self.leverages(features)
        return values / (leverage.sqrt() * self.typical.to(values))[:, None], leverage

    def unlike(self, t: Tensor, leverage: Tensor) -> Tensor:
        """Return the score (B,) of t (B, C), in units of the typical one, and leverages (B,)."""
        if self.leverage is None:
            return -t.amax(-1)
        largest = t.amax(-1) if self.largest is None else t.amax(-1) / self.largest.to(t)
        return -largest * (self.leverage.to(t) / leverage) ** (POWER - 0.5)

    def measured_by(self, largest: Tensor | None) -> Certainty:
        """Return the same with quantiles in this unit (), if they are those of an older file, which has none."""
        if largest is None or self.largest is not None or self.leverage is None:
            return self
        fewer = None if self.fewer is None else replace(self.fewer, ood_scores=self.fewer.ood_scores / largest)
        return replace(self, ood_scores=self.ood_scores / largest, fewer=fewer, largest=largest)

    def without(self, index: int) -> Certainty:
        """Return the same: the columns of `errors` are no classes, and what is usual of the others stays."""
        return self

    def plus(self, other: Certainty) -> Certainty:
        """Return the same, with what the images of another model said is usual as well."""
        if self.images and other.images and self.one_class != other.one_class:
            return other if self.one_class else self  # distances from a single class are no score among several
        # Quantiles of two scores do not mix: those of the present one stay.
        same = (self.leverage is None) == (other.leverage is None)
        mine, its = self.measured_by(other.largest), other.measured_by(self.largest)
        parts = [mine, its] if same else [one for one in (mine, its) if one.leverage is not None]
        known = [(one.ood_scores, one.images) for one in parts]
        return replace(
            self,
            losses=self.losses + other.losses,
            ood_scores=joint_quantiles(*known) if any(one.images for one in parts) else parts[0].ood_scores,
            leverage=parts[0].leverage,
            largest=parts[0].largest,
            fewer=its.fewer if mine.fewer is None else mine.fewer.joined(self.images, its.fewer, other.images),
            images=self.images + other.images,
            classes=torch.maximum(self.classes, other.classes),
        )

    def counting(self, share: Tensor) -> Certainty:
        """Return the same, as if only a share () of the images had said what is usual."""
        fewer = None if self.fewer is None else self.fewer.counting(share)
        return replace(self, losses=self.losses * share, images=self.images * share, fewer=fewer)

    def updated(
        self,
        t: Tensor,
        labels: Tensor,
        weights: Tensor | None = None,
        leverages: Tensor | None = None,
        first: FirstViews | None = None,
    ) -> Certainty:
        """Return this updated by images left out, of own classes `labels` (n,), whose t are (n, C).

        In `losses`, whose unit holds only nearly, earlier ones count for a quarter once there are twice as many
        classes. `weights` (n,) is what each image counts for; 1 without. `leverages` (n,) are needed for the score of
        today. With several readings t is (R, n, C), and leverages (R, n). `first` says the same of their first views.
        """
        t, classes = t / self.typical, t.shape[-1]
        faded = fading(self.classes, classes)
        own = t.new_ones(len(labels)) if weights is None else weights
        scores = -t.amax(-1) if leverages is None else self.unlike(t, leverages)
        losses = losses_of(TEMPERATURES, t, labels, weights)
        fewer = None if self.fewer is None else self.fewer.counting(faded)
        if first is not None:
            few = first.t / self.typical
            leads = joint_quantiles((first.leads / self.typical, own))
            unlike = joint_quantiles((self.unlike(few, first.leverages), own))
            found = FewerViews(leads, losses_of(TEMPERATURES, few, labels, weights), unlike)
            fewer = found.joined(own.sum(), fewer, self.images, faded)
        return replace(
            self,
            losses=faded * self.losses + losses,
            ood_scores=joint_quantiles((self.ood_scores, self.images), (scores, own)),
            fewer=fewer,
            images=self.images + own.sum(),
            classes=torch.full_like(self.classes, classes),
        )


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
    if before is not None and before.one_class != (len(sums.counts) < 2):
        before = None  # distances from a single class, and values among several, are two scores
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
    images = Rows(*newest).several(seen)
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
    t, own = t_left_out_weighted(seen, sums, system, readout, images.as_asked())
    if len(shares) == 1:
        t, own = t[0], own[0]
    each = seen.image_weights(balance)[labels]
    several = images.order is not None and images.order.stops and images.order.looked > 1
    first = first_views_left_out(seen, sums, system, readout, images) if several and classes > 1 else None
    return found.updated(t, labels, each if weights is None else each * weights, own, first)


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
