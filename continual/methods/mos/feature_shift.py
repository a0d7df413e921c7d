"""How stacks shift features, and what that predicts of an image that only some of them have seen.

The shift of an image x under stack k is phi(x; A_k) - phi(x; A_1). Three things predict it, and none needs an image
that is gone:

- its mean over the images the stack was trained on;
- a part that is linear in phi(x; A_1). As every stack is merged towards those before it, all of them move an image in
  much the same direction: one regression serves all, of every stack's shifts in units of their spread, of which only
  the normal equations are remembered. Cross-validation chooses its strength, and says how much it leaves unexplained;
- the residual under other stacks: to first order a shift is linear in A_k - A_1, so the residuals of two stacks are
  correlated as these differences are; on real images nearly so (`benchmarks/README.md`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import Tensor
from torch.nn.functional import linear

from continual.adapters.base import Weights
from continual.statistics.class_statistics import ClassStatistics, fit
from continual.statistics.fields import expect_shapes
from continual.statistics.ridge import best_penalty
from continual.statistics.transport import FeatureMap

DRAWS = 8192  #: of all classes together
SAMPLES = 64
#: What is drawn spreads this much wider than training images do: new images are less like them than they are.
WIDER = 2**0.5

#: (rows (M,), stacks (M,)) -> features (M, D), each image's under its stack
FeaturesOf = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Centred:
    """Products of features under the first stack, and of these with shifts, around the means of some images."""

    count: int
    origin: Tensor  #: (1, D), the mean feature
    shift: Tensor  #: (D,), the mean shift
    gram: Tensor  #: (D, D)
    cross: Tensor  #: (D, D)
    square: Tensor  #: (), the mean squared length of a shift less the mean one

    @classmethod
    def of(cls, first: Tensor, own: Tensor) -> Self:
        """Sum over images' features (n, D) under the first stack, and under their own."""
        origin, shift = first.mean(0, keepdim=True), own - first
        mean = shift.mean(0)
        rows, shift = first - origin, shift - mean
        return cls(len(first), origin, mean, rows.mT @ rows, rows.mT @ shift, shift.square().sum(1).mean())

    def plus(self, other: Self) -> Self:
        """Return the sums over both sets of images, around the means of all."""
        share, moved = other.count / (self.count + other.count), other.shift - self.shift
        weight, gap = self.count * share, (other.origin - self.origin)[0]
        return type(self)(
            self.count + other.count,
            self.origin + share * gap,
            self.shift + share * moved,
            self.gram + other.gram + weight * torch.outer(gap, gap),
            self.cross + other.cross + weight * torch.outer(gap, moved),
            (1 - share) * self.square + share * other.square + share * (1 - share) * moved.square().sum(),
        )


@dataclass(frozen=True)
class ShiftStatistics:
    """The normal equations of shifts, in units of their spread, on features under the first stack.

    Both are centred among the images of each experience, whose mean features are the origins.
    """

    gram: Tensor  #: (D, D)
    cross: Tensor  #: (D, D)
    origins: Tensor  #: (T, D)

    def check_shapes(self) -> None:
        """Raise ValueError unless all parts are of one width D."""
        width = self.gram.shape[-1] if self.gram.ndim else 0
        experiences = self.origins.shape[0] if self.origins.ndim else 0
        expect_shapes(self, gram=(width, width), cross=(width, width), origins=(experiences, width))

    @classmethod
    def of(cls, first: Tensor, own: Tensor) -> Self:
        """Sum over one experience's images: features (n, D) under the first stack, and under their own."""
        return cls.centred(Centred.of(first, own))

    @classmethod
    def centred(cls, sums: Centred) -> Self:
        """Return the sums of one experience, in units of its shifts' spread."""
        spread = sums.square.sqrt()
        return cls(sums.gram * (spread > 0), sums.cross / spread.clamp(min=1e-12), sums.origin)

    def plus(self, later: Self) -> Self:
        """Return the sums over these experiences and later ones."""
        origins = torch.cat([self.origins, later.origins])
        return type(self)(self.gram + later.gram, self.cross + later.cross, origins)

    def beginning(self) -> Self:
        """Return the sums over the first experience alone, which adds nothing but its origin."""
        return type(self)(torch.zeros_like(self.gram), torch.zeros_like(self.cross), self.origins[:1])

    def solve(self, count: int) -> tuple[Tensor, float]:
        """Return the slope (D, D), and the share of the shifts of `count` images that it leaves unexplained."""
        values, directions = torch.linalg.eigh(self.gram.cpu().double())  # MPS lacks float64
        rotated = directions.mT @ self.cross.cpu().double()
        free = count - (len(self.origins) - 1)
        strength, left = best_penalty(values, rotated.square().sum(1), count, free)
        if left >= 1:
            return torch.zeros_like(self.gram), 1.0
        return (directions @ (rotated / (values.clamp(min=0) + strength)[:, None])).to(self.gram), left


class Shifts:
    """What is remembered of shifts, with those of one experience's images, which are given in blocks.

    `shifts` and `sums` are of the `experiences` before; where older files left some of them out, it stays at these.
    """

    def __init__(self, shifts: tuple[ClassStatistics, ...], sums: ShiftStatistics | None, experiences: int) -> None:
        self.shifts, self.sums, self.whole = shifts, sums, len(shifts) >= experiences
        self.new: tuple[ClassStatistics, Centred] | None = None

    def add(self, first: Tensor, own: Tensor) -> None:
        """Add images by their features (n, D) under the first stack, and under their own."""
        if self.whole and len(first):
            spread, sums = fit(own - first, "low_rank"), Centred.of(first, own)
            self.new = (spread, sums) if self.new is None else (self.new[0].merged(spread), self.new[1].plus(sums))

    def fields(self) -> dict[str, Any]:
        """Return the fields of a `MOSState`."""
        if self.new is None:
            return {"shifts": self.shifts, "shift_sums": self.sums}
        spread, sums = self.new[0], ShiftStatistics.centred(self.new[1])
        # What older files left out of the sums cannot be had any more.
        known = self.sums and self.sums.plus(sums) if self.shifts else sums
        return {"shifts": (*self.shifts, spread), "shift_sums": known}


@dataclass(frozen=True)
class FeatureShiftModel:
    """All stacks' shifts together, of features or of what is linear in them (K numbers)."""

    means: Tensor  #: (T, K)
    slope: Tensor  #: (D, K), in units of the spread
    origins: Tensor  #: (T, K), what the slope makes of each experience's mean feature
    spreads: Tensor  #: (T,)
    gains: Tensor  #: (T, T), the expected residual under a stack for one of 1 under another
    samples: Tensor  #: (T, SAMPLES, K), residuals drawn for all stacks together

    @classmethod
    def of(
        cls,
        shifts: Sequence[ClassStatistics],
        sums: ShiftStatistics | None,
        bank: Weights,
        generator: torch.Generator,
        floor: float,
    ) -> Self:
        """Put together what is remembered of the shifts of features, and draw the samples.

        Without sums (of models that were learned before there were any) no part is linear.
        """
        means = torch.stack([shift.mean for shift in shifts])
        count, width = means.shape
        slope, unexplained, origins = torch.zeros(width, width).to(means), 1.0, means
        if sums is not None:
            slope, unexplained = sums.solve(sum(shift.count for shift in shifts[1:]))
            origins = sums.origins
        spreads = torch.stack([shift.covariance_matrix().trace().clamp(min=0).sqrt() for shift in shifts])
        # One image has no spread, which says nothing.
        per = torch.where(spreads > 1e-3 * spreads.max(), 1 / spreads, 0)
        correlation = alike(bank)
        # The first stack shifts nothing, and tells nothing of the others.
        drawn = [torch.zeros(SAMPLES, width).to(means)]
        drawn += [s.sampler(floor).draw(SAMPLES, generator) - s.mean for s in shifts[1:]]
        units = torch.stack(drawn) * per[:, None, None]
        mixing = torch.linalg.cholesky(correlation + 1e-4 * torch.eye(count))  # equal stacks make it singular
        mixed = torch.einsum("ij,jwd->iwd", mixing.to(units), units)
        gains = correlation.to(spreads) * torch.outer(spreads, per)
        gains.fill_diagonal_(1)
        samples = WIDER * unexplained**0.5 * spreads[:, None, None] * mixed
        return cls(means, slope, origins @ slope, spreads, gains, samples)

    def through(self, weight: Tensor) -> Self:
        """Return the same of what a linear map (K', K) makes of features."""
        parts = {name: linear(getattr(self, name), weight) for name in ("means", "slope", "origins", "samples")}
        return replace(self, **parts)

    def expected(self, sloped: Tensor, stacks: Tensor) -> Tensor:
        """Return the shifts (M, K) expected under stacks (M,), of images with `first @ slope` (M, K)."""
        return self.means[stacks] + self.spreads[stacks, None] * (sloped - self.origins[stacks])

    def moved(
        self,
        known: Tensor,
        residual: Tensor,
        sloped: Tensor,
        under: Tensor,
        stacks: Tensor,
        sample: Tensor | None = None,
    ) -> Tensor:
        """Predict what images have under stacks (M,), from what they have under others.

        Args:
            known: (M, K), what they have under the stacks `under` (M,), which have been run.
            residual: (M, K), what is shifted in that but not `expected`.
            sloped: (M, K), `first @ slope`.
            under: (M,) int64.
            stacks: (M,) int64.
            sample: (M,) int64, in which sample; in the mean of all without.
        """
        gain = self.gains[stacks, under, None]
        shift = self.expected(sloped, stacks) - self.expected(sloped, under) + (gain - 1) * residual
        if sample is not None:
            shift = shift + (self.samples[stacks, sample] - gain * self.samples[under, sample])
        return known + shift

    def simulated(
        self,
        class_experience: Tensor,
        statistics: Sequence[ClassStatistics],
        generator: torch.Generator,
        floor: float = 1e-4,
    ) -> tuple[Tensor, FeaturesOf]:
        """Return features (n, D) under the first stack, as many of each class in turn, and those under other stacks.

        They are drawn from the classes' statistics, each under its own stack, and a sample each; `class_experience` is
        (C,).
        """
        count = max(1, DRAWS // len(statistics))
        own = class_experience.repeat_interleave(count)
        mine = torch.cat([s.mean + WIDER * (s.sampler(floor).draw(count, generator) - s.mean) for s in statistics])
        sample = torch.randint(self.samples.shape[1], (len(mine),), generator=generator, device=mine.device)
        first, unit = mine.clone(), torch.eye(mine.shape[1]).to(mine)
        for stack in own[own > 0].unique().tolist():
            rows, spread = own == stack, self.spreads[stack]
            fixed = self.means[stack] - spread * self.origins[stack] + self.samples[stack, sample[rows]]
            first[rows] = torch.linalg.solve(unit + spread * self.slope, mine[rows] - fixed, left=False)

        def features_of(rows: Tensor, stacks: Tensor) -> Tensor:
            shift = self.expected(first[rows] @ self.slope, stacks) + self.samples[stacks, sample[rows]]
            # What was drawn under its own stack is given back to the bit.
            return torch.where((stacks == own[rows]).unsqueeze(-1), mine[rows], first[rows] + shift)

        return first, features_of


def alike(bank: Weights) -> Tensor:
    """Return the correlation (T, T) of stacks' (T, ...) differences from the first; none with the first."""
    weights = torch.cat([tensor.flatten(1) for tensor in bank.values()], dim=1)
    moved = (weights - weights[:1]).cpu().double()
    length = moved.norm(dim=1)
    correlation = moved @ moved.mT / torch.outer(length, length).clamp(min=1e-24)
    correlation.fill_diagonal_(1)
    return correlation


def moved_shifts(
    shifts: Sequence[ClassStatistics], sums: ShiftStatistics | None, maps: Sequence[FeatureMap]
) -> tuple[ClassStatistics, ...]:
    """Return the shifts on another backbone, to which the features under each stack were mapped.

    Of an experience's images the mean features are known under the first stack, and so under its own: both go where
    their maps take them. Around the mean, shifts move as features under the first stack do. What both maps leave
    unexplained of one image differs by their residuals' difference. None are left where the means are not known, as in
    older files.
    """
    if sums is None or len(sums.origins) != len(shifts):
        return ()
    first, found = maps[0], []
    for shift, origin, own in zip(shifts, sums.origins, maps, strict=True):
        mean = own.points(origin + shift.mean) - first.points(origin)
        around = replace(first, bias=torch.zeros_like(first.bias), residuals=own.residuals - first.residuals)
        moved = around.statistics(replace(shift, mean=torch.zeros_like(shift.mean)))
        found.append(moved.moved(mean))
    return tuple(found)
