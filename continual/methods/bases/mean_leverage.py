"""The mean leverage of images under a regression, from what is kept of it, or from their sums."""

from __future__ import annotations

import torch
from torch import Tensor

from continual.learning.state import learned
from continual.methods.bases.regression_update import Added, RegressionState
from continual.statistics.ridge import GramStatistics
from continual.statistics.triangles import times
from continual.uncertainty.certainty import CLAMPED
from continual.uncertainty.left_out import Rows
from continual.uncertainty.leverage import Certainty


def mean_leverage(state: RegressionState, sums: GramStatistics) -> Tensor:
    """Return the mean leverage () that the system of a state gives the images in some sums.

    Of the sums that it was solved from it is known, and of these less the newest images.
    """
    certain, own, count = learned(state.certainty), learned(state.sums), sums.counts.sum()
    if (known := _known_leverage(state)) is not None:
        if sums is own:
            return known
        if state.newest is not None and torch.allclose(sums.total + state.newest.total, own.total, rtol=1e-9):
            return (known * own.counts.sum() - state.newest.leverage) / count
    weight, bias = certain.errors.weight.to(sums.total), certain.errors.bias.to(sums.total)
    squares = (weight * times(sums.triangle, weight)).sum() + 2 * (sums.total @ weight) @ bias
    return squares / count + bias.square().sum() + certain.share


def _known_leverage(state: RegressionState) -> Tensor | None:
    """Return the mean leverage () of the images that a state was solved from; None if a class was forgotten since.

    That of the weighted sums is kept, and other weights move the classes' means alone.
    """
    certain, sums = learned(state.certainty), learned(state.sums)
    usual, count = certain.leverage, sums.counts.sum()
    if (
        usual is None or not 1 / CLAMPED < usual < CLAMPED or (certain.share * count - 1).abs() > 1e-9
    ):  # it is clamped, too
        return None
    more = (1 - sums.image_weights(state.balance or 0.0)) * sums.counts
    means = certain.errors((sums.targets / sums.counts).mT).square().sum(1)
    own_weight = 1.0 if certain.own_weight is None else certain.own_weight
    return usual / (1 + own_weight * usual) + (more * means).sum() / count


def added(newest: Rows | None, certain: Certainty) -> Added | None:
    """Return what is kept of images that are few; of many it would take as long as of all sums."""
    if newest is None or newest.stands_for != 1 or len(newest.features) > newest.features.shape[1] // 4:
        return None
    x = newest.features.to(certain.share)
    return Added(newest.weight * x.sum(0), newest.weight * certain.leverages(x).sum())
