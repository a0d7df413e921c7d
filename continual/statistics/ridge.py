"""Ridge regression from running sums: exact on everything seen, with no image kept.

For features x (D,) and one-hot labels y (C,), all that is remembered is n, sum x, sum x x^T, sum x y^T and
the class counts; sums of two sets of images add up. Everything is float64. As sum x x^T is symmetric, its lower
triangle is kept alone: half of the memory, and of the file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from continual.statistics.fields import per_class, without

#: the penalties tried by `best_penalty`, in mean eigenvalues: quarters of decades, the strongest first
SHARES = tuple(10 ** (k / 4) for k in range(8, -17, -1))
#: the penalties tried by `choose_penalty`
PENALTIES = tuple(10.0**k for k in range(-8, 9))


@dataclass(frozen=True)
class GramStatistics:
    """The sufficient statistics of ridge regression for D features and C classes."""

    total: Tensor  #: (D,), sum x
    triangle: Tensor  #: (D (D + 1) / 2,), the lower triangle of sum x x^T, row by row
    targets: Tensor = per_class(axis=1)  #: (D, C), sum x y^T
    counts: Tensor = per_class()  #: (C,), images of each class

    @classmethod
    def of(cls, features: Tensor, labels: Tensor, classes: int) -> GramStatistics:
        """Sum over features (n, D) with class indices (n,)."""
        x = features if features.device.type == "mps" else features.double()
        y = torch.nn.functional.one_hot(labels, classes).to(x.dtype)
        return cls(x.sum(0), lower_triangle(x.mT @ x), x.mT @ y, y.sum(0))

    def gram(self) -> Tensor:
        """Return sum x x^T (D, D)."""
        width, lower = len(self.total), _lower(self.total)
        whole = self.triangle.new_empty(width, width)
        for half in (whole, whole.mT):
            half.masked_scatter_(lower, self.triangle)
        return whole

    def plus(self, other: GramStatistics | None) -> GramStatistics:
        """Return the sums over both sets, or the only one; the one with fewer classes has none of the others'."""
        if other is None:
            return self
        extra = len(other.counts) - len(self.counts)
        if extra < 0:
            return other.plus(self)
        pad = torch.nn.functional.pad
        return GramStatistics(
            self.total + other.total,
            self.triangle + other.triangle,
            pad(self.targets, (0, extra)) + other.targets,
            pad(self.counts, (0, extra)) + other.counts,
        )

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean (D,) and the deviation (D,) of all images; 1 for a feature that never varied."""
        count, ends = self.counts.sum(), torch.arange(len(self.total), device=self.total.device)
        mean, squares = self.total / count, self.triangle[ends * (ends + 3) // 2] / count
        variance = (squares - mean.square()).clamp(min=0)
        # A feature that never varied says nothing; it must not be divided by zero.
        return mean, torch.where(variance > 1e-12 * (1 + mean.square()), variance.sqrt(), 1.0)

    def without(self, index: int) -> GramStatistics:
        """Return the statistics without one class: exactly so, but for its scatter around its mean.

        That scatter lies in the sum of products, added to the others', and can no longer be separated from them.
        """
        own, count = self.targets[:, index], self.counts[index]
        products = self.triangle - lower_triangle(torch.outer(own, own)) / count
        return replace(without(self, index), total=self.total - own, triangle=products)


@dataclass(frozen=True)
class LinearHead:
    """An affine map from features to scores: `x @ weight + bias`.

    The weight is contiguous, so that one read from a file gives the same bits.
    """

    weight: Tensor = per_class(axis=1)  #: (D, C)
    bias: Tensor = per_class()  #: (C,)

    def __call__(self, features: Tensor) -> Tensor:
        """Return scores (B, C) of features (B, D), in the features' precision."""
        return features @ self.weight.to(features.dtype) + self.bias.to(features.dtype)


def solve(sums: GramStatistics, penalty: float, *, standardise: bool) -> LinearHead:
    """Return the minimiser of `sum |x W + b - y|^2 + penalty |W|^2`.

    With `standardise`, x is first brought to mean 0 and deviation 1 and b is free: the map returned takes
    x as it is. Without, b = 0, as in RanPAC: `W = (G + penalty I)^-1 Q`.
    """
    if not standardise:
        weight = torch.cholesky_solve(sums.targets, _factor(sums.gram(), penalty))
        return LinearHead(weight.contiguous(), torch.zeros_like(sums.counts))
    return Standardised.of(sums, penalty).solve(sums)


@dataclass(frozen=True)
class Standardised:
    """The system of a regression on features (D,) brought to mean 0 and deviation 1: A = sum x x^T + penalty I."""

    mean: Tensor  #: (D,)
    deviation: Tensor  #: (D,)
    penalty: float
    lower: Tensor  #: (D, D), L of A = L L^T; all nan if the penalty is too little to make A regular

    @classmethod
    def of(cls, sums: GramStatistics, penalty: float) -> Standardised:
        """Standardise the sums, and factor."""
        mean, deviation = sums.moments()
        return cls(mean, deviation, penalty, _factor(_products(sums, mean, deviation), penalty))

    def solve(self, sums: GramStatistics) -> LinearHead:
        """Return the map for the sums it was made of, which takes features as they are."""
        crossed = _crossed(sums, self.mean, self.deviation)
        weight = (torch.cholesky_solve(crossed, self.lower) / self.deviation[:, None]).contiguous()
        return LinearHead(weight, sums.counts / sums.counts.sum() - self.mean @ weight)


def _products(sums: GramStatistics, mean: Tensor, deviation: Tensor) -> Tensor:
    """Return sum x x^T (D, D) of standardised features."""
    return (sums.gram() - sums.counts.sum() * torch.outer(mean, mean)) / torch.outer(deviation, deviation)


def _crossed(sums: GramStatistics, mean: Tensor, deviation: Tensor) -> Tensor:
    """Return sum x y^T (D, C) of standardised features."""
    return (sums.targets - torch.outer(mean, sums.counts)) / deviation[:, None]


def expected_best(sums: GramStatistics) -> float:
    """Return the penalty with which `Standardised` should err least on images that were not learned."""
    moments = sums.moments()
    # MPS has no eigenvalues.
    values, directions = torch.linalg.eigh(_products(sums, *moments).cpu())
    explained = (directions.mT @ _crossed(sums, *moments).cpu()).square().sum(1)
    count = float(sums.counts.sum())
    return best_penalty(values, explained, count - float(sums.counts.square().sum()) / count, count - 1)[0]


def best_penalty(values: Tensor, explained: Tensor, total: float, count: float) -> tuple[float, float]:
    """Return the penalty of least expected error, and which share of the targets it should leave unexplained.

    Generalised cross-validation (Golub, Heath and Wahba, Technometrics 1979) estimates the squared error on images that
    were not learned as RSS / (1 - df / n)^2, n images, RSS what the regression leaves of their targets and df its
    degrees of freedom. Both follow from the eigenvalues of the features' products, so no image is needed, nor held out.

    Args:
        values: (D,), the eigenvalues of sum x x^T, of centred features.
        explained: (D,), for each, the squared length of sum x y^T along its eigenvector.
        total: the sum of all squared targets, centred.
        count: how many images were summed, less the means that were taken from them.
    """
    values = values.clamp(min=0)
    unit, best = float(values.mean().clamp(min=1e-12)), (float("inf"), float("inf"))
    for penalty in SHARES:
        held = values + penalty * unit
        left = total - float((explained * (2 / held - values / held.square())).sum())
        free = count - float((values / held).sum())
        share = max(left, 0.0) / total * (count / free) ** 2 if total > 0 and free > 0 else 1.0
        if share < best[1]:
            best = penalty * unit, share
    return best


def _lower(rows: Tensor) -> Tensor:
    """Return which entries (n, n) of a matrix lie on or below its diagonal, for `rows` of length n."""
    return torch.ones(len(rows), len(rows), dtype=torch.bool, device=rows.device).tril_()


def lower_triangle(matrix: Tensor) -> Tensor:
    """Return the lower triangle of a matrix (n, n), row by row: (n (n + 1) / 2,)."""
    return matrix.masked_select(_lower(matrix))


def _factor(gram: Tensor, penalty: float) -> Tensor:
    """Add penalty I to `gram` (D, D), in place, and return the lower factor; all nan if that is not regular."""
    gram.diagonal().add_(penalty)
    lower, failed = torch.linalg.cholesky_ex(gram)
    return torch.full_like(lower, torch.nan) if failed else lower


def choose_penalty(
    before: GramStatistics | None,
    features: Tensor,
    labels: Tensor,
    classes: int,
    *,
    standardise: bool,
    generator: torch.Generator,
) -> float:
    """Return the penalty of least squared error on a fifth of the newest images (n, D).

    The fifth is drawn with `generator` (a CPU generator); the others, and all `before`, are solved on. Fewer
    than five images are all solved on and judged on. Penalties too weak to be solved with are passed over.
    """
    order = torch.randperm(len(features), generator=generator).to(features.device)
    cut = len(features) // 5
    held, kept = (order[:cut], order[cut:]) if cut else (order, order)
    sums = GramStatistics.of(features[kept], labels[kept], classes).plus(before)
    x = features[held].to(sums.total.dtype)
    y = torch.nn.functional.one_hot(labels[held], classes).to(x.dtype)
    errors = {s: float((solve(sums, s, standardise=standardise)(x) - y).square().mean()) for s in PENALTIES}
    # A penalty too weak to be solved with has the error nan.
    return min((s for s in errors if errors[s] == errors[s]), key=lambda s: errors[s])
