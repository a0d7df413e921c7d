"""What is usual of answers by an image's first views, and when these are enough for a mean number of views.

An image's views are finished one by one. The best class of the mean over k of m views leads the second by a difference
of their t, in units of what the mean over all m may still move it by: sqrt(1/k - 1/m), as of k drawn from m. The answer
stands once its lead is at least a limit. Which limit asks for how many views in the mean, images say that were learned,
each as if it had not been, all its views left out (`continual.uncertainty.left_out`). Of them are kept quantiles of the
largest lead after 1, 2, ... views, in units of a typical own t, and of each such mean what `Certainty` keeps of the one
over all.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, replace
from math import inf
from typing import NamedTuple

import torch
from torch import Tensor

from continual.statistics.ridge import GramStatistics, LinearHead, Standardised
from continual.uncertainty.gaussians import LEVELS, joint_quantiles
from continual.uncertainty.left_out import Rows, t_left_out_weighted

#: numbers of values, images times classes times readings, that are made at once
VALUES = 2**22


class FirstViews(NamedTuple):
    """Images left out, of R readings of a view, and means over their first 1, 2, ..., m - 1 views."""

    leads: Tensor  #: (R, m - 1, n), the largest so far
    t: Tensor  #: (R, m - 1, n, C)
    leverages: Tensor  #: (R, m - 1, n)


@dataclass(frozen=True)
class FewerViews:
    """What is usual of means over an image's first 1, 2, ..., m - 1 views. All are tensors."""

    leads: Tensor  #: (R, m - 1, LEVELS), quantiles of the largest lead so far, ascending
    losses: Tensor  #: (R, m - 1, T), as `Certainty.losses`
    ood_scores: Tensor  #: (R, m - 1, LEVELS), as `Certainty.ood_scores`

    def check_shapes(self) -> None:
        """Raise ValueError unless all are of as many readings and views, and have as many quantiles as are kept."""
        ways = self.leads.shape[:-1]
        others = [self.ood_scores.shape, (*self.losses.shape[:-1], LEVELS)]
        if len(ways) != 2 or any(shape != (*ways, LEVELS) for shape in [self.leads.shape, *others]):
            raise ValueError(f"leads are of shape {tuple(self.leads.shape)}: {LEVELS} quantiles are kept of each view")

    def without(self, index: int) -> FewerViews:
        """Return the same, which holds for the other classes as well."""
        return self

    def joined(
        self, images: Tensor, other: FewerViews | None, others: Tensor | float, faded: Tensor | float = 1.0
    ) -> FewerViews:
        """Return this and what `others` () images said before; nothing of them if it was of other views.

        For leads they count for a share `faded` () of what they do for OOD scores.
        """
        if other is None or other.losses.shape != self.losses.shape or not others:
            return self
        before = torch.as_tensor(others).to(images)
        leads = joint_quantiles((self.leads, images), (other.leads, faded * before))
        scores = joint_quantiles((self.ood_scores, images), (other.ood_scores, before))
        return FewerViews(leads, self.losses + other.losses, scores)

    def counting(self, share: Tensor) -> FewerViews:
        """Return the same, as if only a share () of the images had said what is usual."""
        return replace(self, losses=self.losses * share)

    def limit(self, reading: int, views: float) -> float:
        """Return the largest limit under which an image takes at most `views` in the mean.

        It lies between the quantiles, so that rounding does not decide.
        """
        leads = self.leads[min(reading, len(self.leads) - 1)]
        known = leads.flatten().unique()
        between = [-inf, *((known[1:] + known[:-1]) / 2).tolist(), inf]

        def mean(limit: float) -> float:
            return 1 + float((leads < limit).double().mean(1).sum())

        return between[max(0, bisect_left(between, True, key=lambda limit: mean(limit) > views) - 1)]


def lead(t: Tensor, done: int, views: int) -> Tensor:
    """Return by how much the best of t (..., C) leads, (...), after `done` of `views` views; infinite of one class."""
    if t.shape[-1] < 2:
        return t.new_full(t.shape[:-1], inf)
    first, second = t.topk(2, -1).values.unbind(-1)
    return (first - second) / (1 / done - 1 / views) ** 0.5 if done < views else torch.full_like(first, inf)


def first_views_left_out(
    seen: GramStatistics, sums: GramStatistics, system: Standardised, readout: LinearHead, images: Rows
) -> FirstViews:
    """Return what n learned images would give after the first views, had they not been learned.

    Arguments as of `t_left_out_weighted`.
    """
    assert images.order is not None
    looked, found = images.order.looked, []
    ways = (1 if images.readings is None else len(images.readings), looked - 1)
    for part in images.parts(max(1, VALUES // (ways[0] * ways[1] * len(seen.counts)))):
        both = t_left_out_weighted(seen, sums, system, readout, part.by_first_views())
        found.append([x.unflatten(0, ways) for x in both])
    t, leverages = (torch.cat(own, 2) for own in zip(*found, strict=True))
    leads = torch.stack([lead(t[:, k - 1], k, looked) for k in range(1, looked)], 1)
    return FirstViews(leads.cummax(1).values, t, leverages)
