"""Ridge regression from running sums: exact on everything seen, with no image kept.

For features x (D,) and one-hot labels y (C,), all that is remembered is n, sum x, sum x x^T, sum x y^T and
the class counts; sums of two sets of images add up. Everything is float64. As sum x x^T is symmetric, its lower
triangle is kept alone: half of the memory, and of the file.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from continual.statistics.class_statistics import leading, of_each_class
from continual.statistics.fields import expect_shapes, per_class, without
from continual.statistics.triangles import ROWS, lower_products, lower_triangle, solved, whole

#: the penalties tried by `best_penalty`, in mean eigenvalues: quarters of decades, the strongest first
SHARES = tuple(10 ** (k / 4) for k in range(8, -17, -1))
RISEN = 1.1  #: times the least expected error so far: weaker penalties are not believed, see `best_penalty`
ONE_HOT = 2**23  #: images times classes up to which class sums are a product with one-hot labels


@dataclass(frozen=True)
class GramStatistics:
    """The sufficient statistics of ridge regression for D features and C classes."""

    total: Tensor  #: (D,), sum x
    triangle: Tensor  #: (D (D + 1) / 2,), the lower triangle of sum x x^T, row by row
    targets: Tensor = per_class(axis=1)  #: (D, C), sum x y^T
    counts: Tensor = per_class()  #: (C,), images of each class
    #: (C, r, D), F_c with F_c^T F_c the leading part of a class's scatter around its mean; None: not kept
    scatter: Tensor | None = per_class(default=None)

    def check_shapes(self) -> None:
        """Raise ValueError unless all parts are of one width D and number of classes C."""
        width, classes = self.total.numel(), self.counts.numel()
        rank = self.scatter.shape[1] if self.scatter is not None and self.scatter.ndim == 3 else 0
        triangle = (width * (width + 1) // 2,)
        expect_shapes(self, total=(width,), triangle=triangle, targets=(width, classes), counts=(classes,))
        expect_shapes(self, scatter=(classes, rank, width))

    @classmethod
    def of(cls, features: Tensor, labels: Tensor, classes: int, directions: int = 0) -> GramStatistics:
        """Sum over features (n, D) with class indices (n,), and keep `directions` of each class's scatter."""
        x = features if features.device.type == "mps" else features.double()
        scatter = x.new_zeros(classes, directions, x.shape[1]) if directions else None
        if scatter is not None:
            for label, own in of_each_class(x, labels):
                scatter[label] = leading(own - own.mean(0), directions)[0].mT
        return cls(x.sum(0), lower_products(x.mT, x), *class_sums(x, labels, classes), scatter)

    def minus(self, part: GramStatistics) -> GramStatistics:
        """Return the sums without a part of them; nothing is known of the scatter."""
        products, targets = self.triangle - part.triangle, self.targets - part.targets
        return GramStatistics(self.total - part.total, products, targets, self.counts - part.counts)

    def scaled(self, share: float, into: Tensor | None = None) -> GramStatistics:
        """Return the sums in which an image weighs `share` of what it does; `into` as in `plus`."""
        scatter = None if self.scatter is None else self.scatter * share**0.5
        products = torch.mul(self.triangle, share, out=into)
        return GramStatistics(self.total * share, products, self.targets * share, self.counts * share, scatter)

    def gram(self) -> Tensor:
        """Return sum x x^T (D, D)."""
        return whole(self.triangle, len(self.total))

    def plus(self, other: GramStatistics | None, into: Tensor | None = None) -> GramStatistics:
        """Return the sums over both sets, or the only one; the one with fewer classes has none of the others'.

        Products may take the memory of others, `into`, that are not needed again.
        """
        if other is None:
            return self
        extra = len(other.counts) - len(self.counts)
        if extra < 0:
            return other.plus(self, into)
        pad = torch.nn.functional.pad
        return GramStatistics(
            self.total + other.total,
            torch.add(self.triangle, other.triangle, out=into),
            pad(self.targets, (0, extra)) + other.targets,
            pad(self.counts, (0, extra)) + other.counts,
            self._joint_scatter(other),
        )

    def _joint_scatter(self, other: GramStatistics) -> Tensor | None:
        """Return the leading scatter (C, r, D) of the classes of both, of which the other has no fewer."""
        if self.scatter is None or other.scatter is None:
            return None
        joint = other.scatter.clone()
        for c, (m, n) in enumerate(zip(self.counts.tolist(), other.counts.tolist(), strict=False)):
            if m and n:
                gap = (self.targets[:, c] / m - other.targets[:, c] / n) * (m * n / (m + n)) ** 0.5
                rows = torch.cat([self.scatter[c], joint[c], gap[None]])
                joint[c] = leading(rows, joint.shape[1])[0].mT
            elif m:
                joint[c] = self.scatter[c]
        return joint

    def moments(self) -> tuple[Tensor, Tensor]:
        """Return the mean (D,) and the deviation (D,) of all images; 1 for a feature that never varied."""
        count, ends = self.counts.sum(), torch.arange(len(self.total), device=self.total.device)
        mean, squares = self.total / count, self.triangle[ends * (ends + 3) // 2] / count
        variance = (squares - mean.square()).clamp(min=0)
        # A feature that never varied says nothing; it must not be divided by zero.
        return mean, torch.where(variance > 1e-12 * (1 + mean.square()), variance.sqrt(), 1.0)

    def without(self, index: int) -> GramStatistics:
        """Return the statistics without one class.

        Its count and mean are taken out exactly, and so is what `scatter` knows of its scatter: all of it, if the class
        has no more than r + 1 images. The rest has been added to the other classes' and is estimated: the same share of
        what is left of all classes' scatter as the class has of its degrees of freedom, an image less one each.
        """
        own, count, rank = self.targets[:, index], self.counts[index], 0
        between = (self.targets / self.counts) @ self.targets.mT
        if self.scatter is not None:
            rank = self.scatter.shape[1]
            rows = self.scatter.flatten(0, 1)
            between += rows.mT @ rows
        free = (self.counts - 1 - rank).clamp(min=0)
        share = free[index] / free.sum().clamp(min=1)
        taken = torch.outer(own, own) / count - share * between
        if self.scatter is not None:
            taken += self.scatter[index].mT @ self.scatter[index]
        products = (1 - share) * self.triangle - lower_triangle(taken)
        return replace(without(self, index), total=self.total - own, triangle=products)

    def balanced(self, exponent: float) -> GramStatistics:
        """Return the sums in which a class of n_c images weighs as n_c^(1 - exponent): all alike at 1, as it is at 0.

        The weights add up to all images. Every class's scatter around its mean is taken for its share of that of all,
        which stays what it is; so only the classes' means are weighted again, and no more need be known than the sums.
        """
        if exponent == 0 or bool((self.counts == self.counts[0]).all()):
            return self
        each = self.image_weights(exponent)
        moved = lower_products(self.targets * ((each - 1) / self.counts.clamp(min=1)), self.targets.mT)
        targets = self.targets * each
        return GramStatistics(targets.sum(1), moved.add_(self.triangle), targets, self.counts * each)

    def image_weights(self, exponent: float) -> Tensor:
        """Return what an image of each class (C,) weighs in `balanced`, 1 in the mean of all images."""
        each = self.counts.clamp(min=1) ** -exponent
        return each * (self.counts.sum() / (self.counts @ each))


def class_sums(rows: Tensor, labels: Tensor, classes: int, weights: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return sum x y^T (D, C) of rows x (n, D) with class indices (n,), and sum w y (C,); weights w are (n, 1)."""
    if len(labels) * classes <= ONE_HOT:
        y = torch.nn.functional.one_hot(labels, classes).to(rows.dtype)
        return rows.mT @ y, (y if weights is None else weights * y).sum(0)
    each = rows.new_ones(len(labels)) if weights is None else weights[:, 0]
    sums = rows.new_zeros(classes, rows.shape[1]).index_add_(0, labels, rows)
    return sums.mT.contiguous(), rows.new_zeros(classes).index_add_(0, labels, each)


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
        return plainly_solved(sums, penalty)[0]
    return Standardised.of(sums, penalty).solve(sums)


def plainly_solved(sums: GramStatistics, penalty: float, ignored: Tensor | None = None) -> tuple[LinearHead, Tensor]:
    """Return the map `solve` gives without standardising, and L (D, D) of G + penalty I = L L^T; nan if singular.

    The values' changes along rows of `ignored` (m, D) are penalised by their squares.
    """
    gram = sums.gram()
    lower = _factor(gram if ignored is None else gram + ignored.mT @ ignored, penalty)
    return LinearHead(solved(lower, sums.targets).contiguous(), torch.zeros_like(sums.counts)), lower


@dataclass(frozen=True)
class Standardised:
    """The system of a regression on features (D,) brought to mean 0 and deviation 1: A = sum x x^T + penalty I."""

    mean: Tensor  #: (D,)
    deviation: Tensor  #: (D,)
    penalty: float
    lower: Tensor  #: (D, D), L of A = L L^T; all nan if the penalty is too little to make A regular
    ignored: Tensor | None = None  #: (m, D), standardised rows whose products are part of A

    @classmethod
    def of(cls, sums: GramStatistics, penalty: float, ignored: Tensor | None = None) -> Standardised:
        """Standardise the sums, and factor; squares of the values' changes along rows `ignored` (m, D) cost as well."""
        mean, deviation = sums.moments()
        products, rows = products_of(sums, mean, deviation), None if ignored is None else ignored / deviation
        if rows is not None:
            products += rows.mT @ rows
        return cls(mean, deviation, penalty, _factor(products, penalty, in_place=rows is None), rows)

    def white(self, rows: Tensor) -> Tensor:
        """Return L^-1 x of standardised rows x (n, D)."""
        rows = ((rows - self.mean) / self.deviation).mT
        return torch.linalg.solve_triangular(self.lower, rows, upper=False).mT

    def shrunk(self, drawn: Tensor) -> Tensor:
        """Return the estimate of tr(A^-1 (A - sum x x^T)) that rows of A^-1's root (k, D) give."""
        own = self.penalty * drawn.square().sum()
        return own if self.ignored is None else own + (drawn @ self.ignored.mT).square().sum()

    def solve(self, sums: GramStatistics, drawn_to: Tensor | None = None) -> LinearHead:
        """Return the map for the sums it was made of, which takes features as they are.

        With weights W_0 (D, C) that it is `drawn_to`, of standardised features, A W = sum x y^T + penalty W_0.
        """
        crossed = crossed_of(sums, self.mean, self.deviation)
        crossed = crossed if drawn_to is None else crossed + self.penalty * drawn_to
        weight = (solved(self.lower, crossed) / self.deviation[:, None]).contiguous()
        return LinearHead(weight, sums.counts / sums.counts.sum() - self.mean @ weight)


def products_of(sums: GramStatistics, mean: Tensor, deviation: Tensor) -> Tensor:
    """Return sum x x^T (D, D) of standardised features, in the memory of one such matrix."""
    found, count = sums.gram(), sums.counts.sum()
    for own, m, s in zip(found.split(ROWS), mean.split(ROWS), deviation.split(ROWS), strict=True):
        own.sub_(torch.outer(m, mean).mul_(count)).div_(torch.outer(s, deviation))
    return found


def crossed_of(sums: GramStatistics, mean: Tensor, deviation: Tensor) -> Tensor:
    """Return sum x y^T (D, C) of standardised features."""
    return (sums.targets - torch.outer(mean, sums.counts)) / deviation[:, None]


def expected_best(sums: GramStatistics) -> float:
    """Return the penalty with which `Standardised` should err least on images that were not learned."""
    moments = sums.moments()
    # MPS has no eigenvalues.
    values, directions = torch.linalg.eigh(products_of(sums, *moments).cpu())
    explained = (directions.mT @ crossed_of(sums, *moments).cpu()).square().sum(1)
    count = float(sums.counts.sum())
    return best_penalty(values, explained, count - float(sums.counts.square().sum()) / count, count - 1)[0]


def best_penalty(values: Tensor, explained: Tensor, total: float, count: float) -> tuple[float, float]:
    """Return the penalty of least expected error, and which share of the targets it should leave unexplained.

    Generalised cross-validation (Golub, Heath and Wahba, Technometrics 1979) estimates the squared error on images that
    were not learned as RSS / (1 - df / n)^2, n images, RSS what the regression leaves of their targets and df its
    degrees of freedom. Both follow from the eigenvalues of the products, so no image is needed. Where df nears
    n, both numbers vanish and it may fall again: once it has risen by a tenth, weaker penalties are not believed.

    Args:
        values: (D,), the eigenvalues of sum x x^T, of centred features.
        explained: (D,), for each, the squared length of sum x y^T along its eigenvector.
        total: the sum of all squared targets, centred.
        count: how many images were summed, less the means that were taken from them.
    """
    values = values.clamp(min=0)
    unit, best = float(values.mean().clamp(min=1e-12)), (float("inf"), float("inf"))
    for penalty in SHARES:
        share = unexplained(values, values + penalty * unit, explained, total, count, total)
        if share < best[1]:
            best = penalty * unit, share
        elif share > RISEN * best[1]:
            break
    return best


def unexplained(values: Tensor, held: Tensor, explained: Tensor, total: float, count: float, of: float) -> float:
    """Return the expected squared error as a share `of` another, see `best_penalty`; `held` are values + penalty."""
    left = total - float((explained * (2 / held - values / held.square())).sum())
    free = count - float((values / held).sum())
    return max(left, 0.0) / of * (count / free) ** 2 if of > 0 and free > 0 else 1.0


def _factor(gram: Tensor, penalty: float, *, in_place: bool = False) -> Tensor:
    """Add penalty I to `gram` (D, D), in place, and return the lower factor; all nan if that is not regular.

    With `in_place` the factor takes the memory of `gram`, which must be symmetric to the last bit.
    """
    gram.diagonal().add_(penalty)
    # Factors lie column by column, as the rows of a symmetric matrix do.
    own = (gram.mT, gram.new_empty((), dtype=torch.int32)) if in_place else None
    lower, failed = torch.linalg.cholesky_ex(gram if own is None else own[0], out=own)
    return torch.full_like(lower, torch.nan) if failed else lower
