"""How large the largest of an image's values is expected to be among so many classes: a unit in which scores stay true.

The largest of many values grows with the number of classes, by chance alone. Quantiles of it that were noted among few
classes mislead among more, unless they are in units of what was expected then and is now. A learned image's values
among C classes are taken for independent Gaussians of one deviation s: its own around their mean a, the C - 1 others
around (1 - a) / (C - 1), as values of a regression sum to 1. With S the mean of the sum of squared values,
C s^2 = S - a^2 - (1 - a)^2 / (C - 1). All of it follows from the sums. Left out, an image of leverage h has a - h for
a, and everything is 1 / (1 - h) times as large (Allen, Technometrics 1974).
"""

from __future__ import annotations

from math import sqrt
from statistics import NormalDist

#: which quantile of the largest value is the unit; chosen on the half of Tiny-ImageNet that things are chosen on, see
#: docs/strata.md
QUANTILE = 0.9


def expected_largest(own: float, squares: float, leverage: float, classes: int) -> float:
    """Return `QUANTILE` of the largest value of an image left out.

    Args:
        own: the mean value of learned images' own class.
        squares: the mean over learned images of the sum of their squared values.
        leverage: their mean leverage, below 1.
        classes: how many there are, two or more.
    """
    other = (1 - own) / (classes - 1)
    deviation = sqrt(max(squares - own**2 - (1 - own) * other, 1e-12) / classes)
    mine, others = NormalDist(own - leverage, deviation), NormalDist(other, deviation)
    low, high = min(mine.mean, other), max(mine.mean, other) + 9 * deviation
    for _ in range(60):
        middle = (low + high) / 2
        if mine.cdf(middle) * others.cdf(middle) ** (classes - 1) < QUANTILE:
            low = middle
        else:
            high = middle
    return high / (1 - leverage)
