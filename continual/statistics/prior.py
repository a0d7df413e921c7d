"""Weights that a ridge regression is drawn to instead of to 0, and how far: what is known of classes before any image.

W minimises sum |x W + b - y|^2 + penalty |W - s W_0|^2 with features x of mean 0 and deviation 1, so that
(sum x x^T + penalty I) W = sum x y^T + penalty s W_0. That is s W_0 and a ridge regression of the targets y - s x W_0:
what is said of images left out, and of the penalty, holds for these targets as for others. Without images it would be
s W_0 alone, and with many the prior is gone.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from continual.statistics.ridge import (
    RISEN,
    SHARES,
    GramStatistics,
    LinearHead,
    Standardised,
    crossed_of,
    products_of,
    unexplained,
)
from continual.statistics.triangles import solved


@dataclass(frozen=True)
class Prior:
    """A direction for each class, in features as they are, and how long the weights are that it stands for."""

    directions: Tensor  #: (D, C)
    scale: float | None = None  #: s; None: the one that explains the targets best under the penalty, 0 or more

    def solve(self, system: Standardised, sums: GramStatistics) -> LinearHead:
        """Return the map that `Standardised.solve` returns, drawn to the prior."""
        drawn_to = self.standardised(system.deviation)
        return system.solve(sums, self.length(system, sums, drawn_to) * drawn_to)

    def standardised(self, deviation: Tensor) -> Tensor:
        """Return the directions (D, C) for features that were divided by their deviation (D,)."""
        return self.directions.to(deviation) * deviation[:, None]

    def length(self, system: Standardised, sums: GramStatistics, drawn_to: Tensor) -> float:
        """Return s.

        With B = A^-1 sum x y^T and U = A^-1 W_0 the residuals are y - x B - s penalty x U: least squares in s. Their
        size decides, as the degrees of freedom do not depend on s.
        """
        if self.scale is not None:
            return self.scale
        crossed = crossed_of(sums, system.mean, system.deviation)
        plain, own = (solved(system.lower, right) for right in (crossed, drawn_to))
        moved = drawn_to - system.penalty * own  # sum x x^T U
        if system.ignored is not None:
            moved = moved - system.ignored.mT @ (system.ignored @ own)
        explained = system.penalty * (own * moved).sum()
        return max(0.0, float(((crossed * own).sum() - (plain * moved).sum()) / explained)) if explained > 0 else 0.0

    def expected_best(self, sums: GramStatistics) -> float:
        """Return the penalty of least expected error; see `continual.statistics.ridge.best_penalty`."""
        moments = sums.moments()
        # MPS has no eigenvalues.
        values, axes = torch.linalg.eigh(products_of(sums, *moments).cpu())
        crossed, own = (axes.mT @ rows.cpu() for rows in (crossed_of(sums, *moments), self.standardised(moments[1])))
        values, count = values.clamp(min=0), float(sums.counts.sum())
        total = count - float(sums.counts.square().sum()) / count
        unit, best = float(values.mean().clamp(min=1e-12)), (float("inf"), float("inf"))
        for share in SHARES:
            held = values + share * unit
            scale = self._length(values, held, crossed, own) if self.scale is None else self.scale
            left = (crossed - scale * values[:, None] * own).square().sum(1)
            targets = total - 2 * scale * float((crossed * own).sum())
            targets += scale**2 * float((values[:, None] * own.square()).sum())
            error = unexplained(values, held, left, targets, count - 1, total)
            if error < best[1]:
                best = share * unit, error
            elif error > RISEN * best[1]:
                break
        return best[0]

    @staticmethod
    def _length(values: Tensor, held: Tensor, crossed: Tensor, own: Tensor) -> float:
        """Return s where sum x x^T is diagonal, of `values` (D,)."""
        explained = float((values * own.square().sum(1) / held.square()).sum())
        return max(0.0, float(((crossed * own).sum(1) / held.square()).sum()) / explained) if explained > 0 else 0.0
