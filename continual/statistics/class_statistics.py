"""What is remembered of a class instead of its images: a distribution of its features.

`fit` turns a class's features into one of four kinds of statistics; each can be sampled (its factor is
computed once) and merged with the statistics of later images of the same class. A class with a single
image has a valid distribution too: its covariance is the floor.

| kind | numbers per class | merged exactly |
|---|---|---|
| `full` | D + D^2 | yes |
| `shrunk` | D + D^2, covariance shrunk towards a multiple of I (OAS) when it is sampled | yes |
| `diagonal` | 2 D | yes |
| `low_rank` | D (k + 2), the k leading directions and a diagonal rest | up to the rank |
| `centroids` | k (D + 1) + 2 D, k-means centres with one shared diagonal | no: the k weightiest centres stay |
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, Self

import torch
from torch import Tensor

from continual.statistics.fields import expect_shapes

Kind = Literal["full", "shrunk", "diagonal", "low_rank", "centroids"]


@dataclass(frozen=True)
class ClassStatistics(ABC):
    """The distribution of one class's features, from `count` images."""

    count: int
    mean: Tensor  #: (D,)

    kind: ClassVar[str]

    @classmethod
    @abstractmethod
    def fit(cls, features: Tensor, components: int) -> Self:
        """Fit (n, D) features; of one image, the covariance is zero."""

    @abstractmethod
    def sampler(self, floor: float) -> Sampler:
        """Factor the covariance (plus `floor` * I) once, for any number of draws."""

    @abstractmethod
    def merged(self, other: ClassStatistics) -> ClassStatistics:
        """Return the statistics of both sets of images together."""

    @abstractmethod
    def covariance_matrix(self) -> Tensor:
        """Return the covariance that was fitted, (D, D), neither shrunk nor floored."""

    def moved(self, by: Tensor) -> Self:
        """Return the distribution of the same features plus `by` (D,)."""
        return replace(self, mean=self.mean + by)

    @staticmethod
    def kinds() -> dict[str, type[ClassStatistics]]:
        """Return the kinds by name, of which a file says one for each class."""
        return {cls.kind: cls for cls in (Full, Shrunk, Diagonal, LowRank, Centroids)}


@dataclass(frozen=True)
class Sampler:
    """Draws `mean + z F^T + sqrt(d) * z'`; `factor` F is (D, k) or None, `deviation` (D,) or None."""

    centres: Tensor  #: (m, D), one of which is picked for each draw
    weights: Tensor  #: (m,), summing to 1
    factor: Tensor | None
    deviation: Tensor | None

    def draw(self, count: int, generator: torch.Generator) -> Tensor:
        """Return (count, D) features; `generator` decides every random number."""
        device, width = self.centres.device, self.centres.shape[1]
        out = self.centres[:1].expand(count, -1)
        if len(self.centres) > 1:
            out = self.centres[torch.multinomial(self.weights, count, True, generator=generator)]
        if self.factor is not None:
            noise = torch.randn(count, self.factor.shape[1], generator=generator, device=device)
            out = out + noise @ self.factor.mT
        if self.deviation is not None:
            out = out + self.deviation * torch.randn(count, width, generator=generator, device=device)
        return out


def _pooled(a: ClassStatistics, b: ClassStatistics) -> tuple[float, float, Tensor, Tensor]:
    """Return both shares, the common mean, and the difference of the means."""
    share = a.count / (a.count + b.count)
    return share, 1 - share, share * a.mean + (1 - share) * b.mean, a.mean - b.mean


def _merge_second(a: Tensor, b: Tensor, m: int, n: int, between: Tensor) -> Tensor:
    """Merge two unbiased (co)variances of m and n points whose means differ by `between` = d d^T or d^2."""
    return ((m - 1) * a + (n - 1) * b + between * (m * n / (m + n))) / (m + n - 1)


@dataclass(frozen=True)
class Full(ClassStatistics):
    """Mean and unbiased covariance."""

    covariance: Tensor  #: (D, D)
    kind: ClassVar[str] = "full"

    @classmethod
    def fit(cls, features: Tensor, components: int) -> Self:
        centred = features - features.mean(0)
        return cls(len(features), features.mean(0), centred.mT @ centred / max(len(features) - 1, 1))

    def sampler(self, floor: float) -> Sampler:
        # In float64 (which MPS lacks): with fewer images than features only the floor makes it regular.
        covariance = self._covariance().cpu().double()
        covariance.diagonal().add_(floor)
        factor, failed = torch.linalg.cholesky_ex(covariance)
        if failed:  # the rounding of large features in float32 exceeds the floor
            values, directions = torch.linalg.eigh(covariance)
            factor = directions * values.clamp(min=floor).sqrt()
        return Sampler(self.mean[None], torch.ones(1), factor.to(self.mean), None)

    def _covariance(self) -> Tensor:
        return self.covariance.clone()

    def covariance_matrix(self) -> Tensor:
        return self.covariance

    def merged(self, other: ClassStatistics) -> Full:
        assert isinstance(other, Full)
        _, _, mean, gap = _pooled(self, other)
        covariance = _merge_second(self.covariance, other.covariance, self.count, other.count, torch.outer(gap, gap))
        return type(self)(self.count + other.count, mean, covariance)


@dataclass(frozen=True)
class Shrunk(Full):
    """Mean and covariance, sampled with oracle-approximating shrinkage (Chen et al. 2010, eq. 23)."""

    kind: ClassVar[str] = "shrunk"

    def _covariance(self) -> Tensor:
        width, n = len(self.mean), self.count
        trace, square = self.covariance.trace(), self.covariance.square().sum()
        scale = trace / width
        top = (1 - 2 / width) * square + trace**2
        bottom = (n + 1 - 2 / width) * (square - trace**2 / width)
        rho = float((top / bottom).clamp(max=1)) if bottom > 0 else 1.0
        return (1 - rho) * self.covariance + rho * scale * torch.eye(width, device=self.mean.device)


@dataclass(frozen=True)
class Diagonal(ClassStatistics):
    """Mean and unbiased variance of each feature."""

    variance: Tensor  #: (D,)
    kind: ClassVar[str] = "diagonal"

    @classmethod
    def fit(cls, features: Tensor, components: int) -> Self:
        mean = features.mean(0)
        return cls(len(features), mean, (features - mean).square().sum(0) / max(len(features) - 1, 1))

    def sampler(self, floor: float) -> Sampler:
        return Sampler(self.mean[None], torch.ones(1), None, (self.variance + floor).sqrt())

    def covariance_matrix(self) -> Tensor:
        return self.variance.diag()

    def merged(self, other: ClassStatistics) -> Diagonal:
        assert isinstance(other, Diagonal)
        _, _, mean, gap = _pooled(self, other)
        variance = _merge_second(self.variance, other.variance, self.count, other.count, gap.square())
        return Diagonal(self.count + other.count, mean, variance)


@dataclass(frozen=True)
class LowRank(ClassStatistics):
    """Covariance = F F^T + diag(rest): the leading directions exactly, the others as a diagonal."""

    factor: Tensor  #: (D, k)
    rest: Tensor  #: (D,)
    kind: ClassVar[str] = "low_rank"

    def check_shapes(self) -> None:
        """Raise ValueError unless all parts are of one width D."""
        width = self.mean.numel()
        expect_shapes(self, mean=(width,), factor=(width, *self.factor.shape[1:2]), rest=(width,))

    @classmethod
    def fit(cls, features: Tensor, components: int) -> Self:
        """Fit (n, D) features with at most `components` directions."""
        mean = features.mean(0)
        rows = (features - mean) / max(len(features) - 1, 1) ** 0.5
        return cls(len(features), mean, *leading(rows, components))

    def sampler(self, floor: float) -> Sampler:
        return Sampler(self.mean[None], torch.ones(1), self.factor, (self.rest + floor).sqrt())

    def covariance_matrix(self) -> Tensor:
        return self.factor @ self.factor.mT + self.rest.diag()

    def merged(self, other: ClassStatistics) -> LowRank:
        assert isinstance(other, LowRank)
        m, n = self.count, other.count
        _, _, mean, gap = _pooled(self, other)
        rows = torch.cat(
            [
                self.factor.mT * ((m - 1) / (m + n - 1)) ** 0.5,
                other.factor.mT * ((n - 1) / (m + n - 1)) ** 0.5,
                gap[None] * (m * n / (m + n) / (m + n - 1)) ** 0.5,
            ]
        )
        factor, lost = leading(rows, max(self.factor.shape[1], other.factor.shape[1]))
        rest = _merge_second(self.rest, other.rest, m, n, torch.zeros_like(gap)) + lost
        return LowRank(m + n, mean, factor, rest)


def leading(rows: Tensor, components: int) -> tuple[Tensor, Tensor]:
    """Split rows^T rows into its leading factor (D, k), zero-padded, and the diagonal of the rest (D,)."""
    _, values, directions = torch.linalg.svd(rows, full_matrices=False)
    k = min(components, len(values))
    factor = rows.new_zeros(rows.shape[1], components)
    factor[:, :k] = (values[:k, None] * directions[:k]).mT
    return factor, (rows.square().sum(0) - factor.square().sum(1)).clamp(min=0)


@dataclass(frozen=True)
class Centroids(ClassStatistics):
    """k-means centres with their shares, and the variance around them."""

    centres: Tensor  #: (k, D)
    shares: Tensor  #: (k,), summing to 1
    variance: Tensor  #: (D,)
    kind: ClassVar[str] = "centroids"

    @classmethod
    def fit(cls, features: Tensor, components: int) -> Self:
        """Run k-means on (n, D) features, from centres spread by farthest-point choice."""
        n = len(features)
        chosen = [int((features - features.mean(0)).square().sum(1).argmin())]
        while len(chosen) < min(components, n):
            chosen.append(int(torch.cdist(features, features[chosen]).amin(1).argmax()))
        centres = features[chosen]
        for _ in range(20):
            nearest = torch.cdist(features, centres).argmin(1)
            member = torch.nn.functional.one_hot(nearest, len(centres)).to(features.dtype)
            sizes = member.sum(0)
            moved = member.mT @ features / sizes.clamp(min=1)[:, None]
            centres = torch.where(sizes[:, None] > 0, moved, centres)
        variance = (features - centres[nearest]).square().sum(0) / max(n - len(centres), 1)
        return cls(n, features.mean(0), centres, sizes / n, variance)

    def sampler(self, floor: float) -> Sampler:
        return Sampler(self.centres, self.shares, None, (self.variance + floor).sqrt())

    def moved(self, by: Tensor) -> Centroids:
        return replace(super().moved(by), centres=self.centres + by)

    def covariance_matrix(self) -> Tensor:
        gaps = self.centres - self.mean
        return gaps.mT @ (self.shares[:, None] * gaps) + self.variance.diag()

    def merged(self, other: ClassStatistics) -> Centroids:
        assert isinstance(other, Centroids)
        mine, theirs, mean, _ = _pooled(self, other)
        keep = max(len(self.centres), len(other.centres))
        shares = torch.cat([mine * self.shares, theirs * other.shares])
        order = shares.argsort(descending=True, stable=True)[:keep]
        centres = torch.cat([self.centres, other.centres])[order]
        variance = mine * self.variance + theirs * other.variance
        return Centroids(self.count + other.count, mean, centres, shares[order] / shares[order].sum(), variance)


def of_each_class(features: Tensor, labels: Tensor) -> Iterator[tuple[int, Tensor]]:
    """Yield the class indices among (n,), ascending, with the features (m, D) of each, in their order."""
    order = labels.argsort(stable=True)
    found, counts = labels[order].unique_consecutive(return_counts=True)
    yield from zip(found.tolist(), (features[rows] for rows in order.split(counts.tolist())), strict=True)


def fit(features: Tensor, kind: Kind = "full", components: int = 8) -> ClassStatistics:
    """Fit one class's features (n, D), n >= 1.

    `components` is the number of directions of `low_rank` or of centres of `centroids`. Raises ValueError
    on no features or features that are not finite.

    >>> fit(torch.ones(1, 3), "full").sampler(1e-4).draw(2, torch.Generator()).shape
    torch.Size([2, 3])
    """
    if len(features) == 0 or not torch.isfinite(features).all():
        raise ValueError(f"class statistics need at least one row of finite features, got {features.shape}")
    return ClassStatistics.kinds()[kind].fit(features, components)
