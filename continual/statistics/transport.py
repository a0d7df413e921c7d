"""What becomes of remembered statistics when features are made by another network, and the images are gone.

Of some images of any kind, without labels, the features under both networks are known: x (D,) before and z (D',) now.
A ridge regression z = A^T x + b + e predicts the one from the other, and what is remembered follows it: means go to
A^T m + b, covariances S to A^T S A + R, R being the covariance of e. Residuals are left out, so that R is that of
images the map has not seen, and their size chooses the penalty.

Left-out residuals are exact in closed form, (I - H)^-1 times those of the fit (Allen, Technometrics 1974), H with the
mean's part 1/n: without it the penalty of fewer images than features would be none at all. Rows of one image, its
views, are left out together.

Where both networks have features of one width, z - c x is regressed instead, c of least squares, which shrinks A to a
multiple of the identity and not to zero: an update of a network keeps most of what its features mean. Between networks
that have nothing in common, c is about 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from continual.statistics.class_statistics import Centroids, ClassStatistics, Diagonal, Full, LowRank, leading
from continual.statistics.head import Prototypes
from continual.statistics.ridge import GramStatistics
from continual.statistics.triangles import lower_triangle

#: the penalties tried, in mean squared singular values of the features: half decades, the strongest first
SHARES = tuple(10 ** (k / 2) for k in range(8, -13, -1))


@dataclass(frozen=True)
class FeatureMap:
    """An affine map of features, A = kept I + down @ up, with what it leaves unexplained. Tensors are in double.

    Of fewer images than features, A - kept I and R are of low rank, and take as little memory.
    """

    down: Tensor  #: (D, r)
    up: Tensor  #: (r, D')
    bias: Tensor  #: (D',)
    residuals: Tensor  #: (n, D'), left out, divided by sqrt(n): R = residuals^T residuals
    kept: float  #: c, the multiple of the identity that is shrunk to; 0 if D is not D'
    explained: float  #: share of the variance of z that is explained of images left out; negative: worse than the mean

    @classmethod
    def fit(cls, old: Tensor, new: Tensor, copies: int = 1) -> Self:
        """Fit it to features (n, D) and (n, D') of the same images; `copies` rows that follow each other are of one.

        Raises ValueError for fewer than three images, or features that are not finite.
        """
        if len(old) != len(new) or len(old) < 3 * copies:
            raise ValueError(f"a map takes features of three images at least, got {len(old)} and {len(new)} rows")
        x, z = (rows.cpu().double() for rows in (old, new))
        if not (x.isfinite().all() and z.isfinite().all()):
            raise ValueError("features are NaN or infinite")
        origin = x.mean(0)
        x, z, centre = x - origin, z - z.mean(0), z.mean(0)
        kept = float((x * z).sum() / x.square().sum().clamp(min=1e-300)) if x.shape[1] == z.shape[1] else 0.0
        left, values, right = torch.linalg.svd(x, full_matrices=False)
        regular = values > 1e-10 * values[:1]
        left, values, right = left[:, regular], values[regular], right[regular]
        wanted = z - kept * x if kept else z
        filter_, residuals = _least_error(left, values.square(), wanted, copies)
        up = (filter_ / values)[:, None] * (left.mT @ wanted)
        bias = centre - (kept * origin if kept else 0) - (origin @ right.mT) @ up
        error, total = (
            float(own.square().sum()) for own in (residuals, _left_out(z, left[:, :0], filter_[:0], copies))
        )
        explained = 1 - error / total if total else float(error == 0)
        return cls(right.mT.contiguous(), up, bias, residuals / len(x) ** 0.5, kept, explained)

    @cached_property
    def noise(self) -> Tensor:
        """R (D', D'), the covariance of what is not explained."""
        return self.residuals.mT @ self.residuals

    def directions(self, rows: Tensor) -> Tensor:
        """Return rows (..., D) without the bias: rows @ A, (..., D')."""
        moved = rows.to(self.up) @ self.down @ self.up
        return (moved + self.kept * rows.to(self.up) if self.kept else moved).to(rows)

    def points(self, features: Tensor) -> Tensor:
        """Return what features (..., D) are expected to become, (..., D')."""
        return self.directions(features) + self.bias.to(features)

    def drawn(self, features: Tensor, generator: torch.Generator) -> Tensor:
        """Return what features (n, D) may become, (n, D'), with residuals of the covariance R from `generator`."""
        mixing = torch.randn(len(features), len(self.residuals), generator=generator, device=generator.device)
        return self.points(features) + (mixing.to(self.residuals) @ self.residuals).to(features)

    def through(self, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """Return weight (D, C) and bias (C,) that make of old features what those (D', C) make of expected new ones."""
        own = weight.to(self.up)
        before = self.down @ (self.up @ own) + (self.kept * own if self.kept else 0)
        return before.to(weight), (self.bias @ own).to(bias) + bias

    def covariance(self, covariance: Tensor) -> Tensor:
        """Return A^T S A + R (D', D') of a covariance S (D, D)."""
        return self.directions(self.directions(covariance).mT).mT + self.noise.to(covariance)

    def variances(self, variance: Tensor) -> Tensor:
        """Return the diagonal (D',) of A^T diag(v) A of variances v (D,)."""
        lower = self.down * variance.to(self.up)[:, None]
        found = ((self.down.mT @ lower @ self.up) * self.up).sum(0)
        if self.kept:
            found = found + self.kept**2 * variance.to(self.up) + 2 * self.kept * (lower * self.up.mT).sum(1)
        return found.to(variance)

    def prototypes(self, known: Prototypes) -> Prototypes:
        """Return class means (..., C, D) as they are expected to be now."""
        return replace(known, mean=self.points(known.mean))

    def statistics(self, known: ClassStatistics) -> ClassStatistics:
        """Return the distribution of a class's features as it is expected to be now, of the same kind.

        Of `low_rank` the leading directions of what was kept and of R together are kept.
        """
        mean, noise = self.points(known.mean), self.noise.diagonal().to(known.mean)
        if isinstance(known, Full):
            return replace(known, mean=mean, covariance=self.covariance(known.covariance))
        if isinstance(known, LowRank):
            rows = torch.cat([self.directions(known.factor.mT), self.residuals.to(known.mean)])
            factor, rest = leading(rows, known.factor.shape[1])
            return replace(known, mean=mean, factor=factor, rest=rest + self.variances(known.rest))
        if isinstance(known, Diagonal):
            return replace(known, mean=mean, variance=self.variances(known.variance) + noise)
        assert isinstance(known, Centroids)
        variance = self.variances(known.variance) + noise
        return replace(known, mean=mean, centres=self.points(known.centres), variance=variance)

    def sums(self, known: GramStatistics) -> GramStatistics:
        """Return the sums over the same images as they are expected to be now; an image adds R to sum z z^T."""
        count = known.counts.sum()
        total = self.directions(known.total)
        half = self.directions(known.gram())  # G A (D, D')
        shifted = torch.outer(total, self.bias.to(total))
        gram = self.directions(half.mT).mT + shifted + shifted.mT
        gram += count * (torch.outer(self.bias, self.bias) + self.noise).to(gram)
        return GramStatistics(
            total + count * self.bias.to(total),
            lower_triangle((gram + gram.mT) / 2),
            (self.directions(known.targets.mT) + known.counts[:, None] * self.bias.to(total)).mT.contiguous(),
            known.counts,
            None if known.scatter is None else self.directions(known.scatter),
        )


def _least_error(left: Tensor, squares: Tensor, wanted: Tensor, copies: int) -> tuple[Tensor, Tensor]:
    """Return f (r,) of the penalty with the least left-out error, and the residuals (n, D') left out; see `_left_out`.

    `squares` (r,) are those of the singular values. Penalties too weak for rows of one image apart are passed over.
    """
    unit = squares.mean() if len(squares) else squares.sum()
    best, least = (torch.zeros_like(squares), _left_out(wanted, left[:, :0], squares[:0], copies)), float("inf")
    for share in SHARES:
        filter_ = squares / (squares + share * unit)
        found = _left_out(wanted, left, filter_, copies)
        if (error := float(found.square().sum())) < least:
            best, least = (filter_, found), error
    return best


def _left_out(wanted: Tensor, left: Tensor, filter_: Tensor, copies: int) -> Tensor:
    """Return the residuals (n, D') of images left out, for H = U diag(f) U^T + 1/n; U is (n, r), f (r,)."""
    count = len(wanted)
    fitted = left @ (filter_[:, None] * (left.mT @ wanted))
    rows = left.unflatten(0, (-1, copies))
    hat = (rows * filter_) @ rows.mT + 1 / count
    system = torch.eye(copies, dtype=wanted.dtype) - hat
    return torch.linalg.solve(system, (wanted - fitted).unflatten(0, (-1, copies))).flatten(0, 1)
