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
expected (`largest_value`). An image may be several rows that weigh as one, its views. Left out with all of them, its
leverage is h / (1 - w h), with h the mean over its rows: w is 1 where they are alike, less the more they differ, and
found from images (`Certainty.own_weight`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from continual.statistics.fields import expect_shapes
from continual.statistics.ridge import LinearHead
from continual.uncertainty.fewer_views import FewerViews, FirstViews
from continual.uncertainty.gaussians import LEVELS, joint_quantiles, p_value
from continual.uncertainty.temperature import fading, losses_of
from continual.uncertainty.tempering import agreeing

POWER = 1.25  #: of the leverage in the score of unknown images; 0.5, as in t, in older files
#: what T is chosen from, in units of a typical own t
TEMPERATURES = 10 ** torch.linspace(-2, 2, 161, dtype=torch.float64)
PER_DECADE = 40  #: of these


class Units(NamedTuple):
    """In what the values and leverages of images left out are measured, each ()."""

    typical: Tensor  #: the own t
    leverage: Tensor
    largest: Tensor  #: the largest t, in units of a typical own one


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
    #: (), w in the unit h / (1 - w h), h the mean leverage of rows: what an image's rows weigh when it is left out, 1
    #: for rows that are alike; None in older files: 1
    own_weight: Tensor | None = None

    def check_shapes(self) -> None:
        """Raise ValueError unless numbers are single, and curves and quantiles have as many as are kept."""
        expect_shapes(self, share=(), typical=(), images=(), classes=(), leverage=(), largest=(), own_weight=())
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

    @property
    def older(self) -> bool:
        """Whether its quantiles are those of a file from before they had today's units."""
        return self.leverage is not None and (self.largest is None or self.own_weight is None)

    def measured_by(self, now: Units, was: Units) -> Certainty:
        """Return the same in units of `now`, if it is `older`; `was` are those of w = 1."""
        scale = was.typical if self.largest is None else was.typical * was.largest
        scale = scale / (now.typical * now.largest) * (now.leverage / was.leverage) ** (POWER - 0.5)
        # A curve over T moves by whole places of its grid.
        moved = round(PER_DECADE * math.log10(float(now.typical / was.typical)))
        places = (torch.arange(len(TEMPERATURES)) + moved).clamp(0, len(TEMPERATURES) - 1)
        fewer = self.fewer
        if fewer is not None:
            leads = fewer.leads * (was.typical / now.typical)
            fewer = FewerViews(leads, fewer.losses[..., places], fewer.ood_scores * scale)
        own_weight = torch.ones_like(now.typical)
        scores = self.ood_scores * scale
        found = replace(self, losses=self.losses[..., places], ood_scores=scores, fewer=fewer, own_weight=own_weight)
        return replace(found, largest=now.largest)

    def without(self, index: int) -> Certainty:
        """Return the same: the columns of `errors` are no classes, and what is usual of the others stays."""
        return self

    def plus(self, other: Certainty) -> Certainty:
        """Return the same, with what the images of another model said is usual as well; neither may be `older`."""
        if self.images and other.images and self.one_class != other.one_class:
            return other if self.one_class else self  # distances from a single class are no score among several
        # Quantiles of two scores do not mix: those of the present one stay.
        same = (self.leverage is None) == (other.leverage is None)
        parts = [self, other] if same else [one for one in (self, other) if one.leverage is not None]
        known = [(one.ood_scores, one.images) for one in parts]
        return replace(
            self,
            losses=self.losses + other.losses,
            ood_scores=joint_quantiles(*known) if any(one.images for one in parts) else parts[0].ood_scores,
            leverage=parts[0].leverage,
            largest=parts[0].largest,
            own_weight=_mean([(one.own_weight, one.images) for one in parts]),
            fewer=other.fewer if self.fewer is None else self.fewer.joined(self.images, other.fewer, other.images),
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


def _mean(values: Sequence[tuple[Tensor | None, Tensor]]) -> Tensor | None:
    """Return the mean of values () that count for so many images (); None unless all are known."""
    known = [(value, images) for value, images in values if value is not None]
    total = sum(float(images) for _, images in known)
    if len(known) < len(values) or not total:
        return values[0][0]
    return torch.stack([value * images for value, images in known]).sum() / total
