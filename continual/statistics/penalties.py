"""The penalty of a ridge regression, chosen on images that are held out of the newest."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from continual.statistics.ridge import GramStatistics, LinearHead, solve

#: the penalties tried by `choose_penalty`
PENALTIES = tuple(10.0**k for k in range(-8, 9))


def choose_penalty(
    before: GramStatistics | None,
    features: Tensor,
    labels: Tensor,
    classes: int,
    *,
    standardise: bool,
    generator: torch.Generator,
    balance: float = 0.0,
) -> float:
    """Return the penalty of least squared error on a fifth of the newest images (n, D).

    The fifth is drawn with `generator` (a CPU generator); the others, and all `before`, are solved on. Fewer
    than five images are all solved on and judged on. Penalties too weak to be solved with are passed over. Classes
    weigh as `GramStatistics.balanced` says.
    """
    order = torch.randperm(len(features), generator=generator).to(features.device)
    cut = len(features) // 5
    held, kept = (order[:cut], order[cut:]) if cut else (order, order)
    seen = GramStatistics.of(features[kept], labels[kept], classes).plus(before)
    sums = seen.balanced(balance)
    x = features[held].to(sums.total.dtype)
    y = torch.nn.functional.one_hot(labels[held], classes).to(x.dtype)
    weights = seen.image_weights(balance)[labels[held], None]
    errors = {s: float(((solve(sums, s, standardise=standardise)(x) - y).square() * weights).mean()) for s in PENALTIES}
    # A penalty too weak to be solved with has the error nan.
    return min((s for s in errors if errors[s] == errors[s]), key=lambda s: errors[s])


def penalty_of(sums: GramStatistics, head: LinearHead) -> float:
    """Return which of PENALTIES an unstandardised head of the sums was solved with: that nearest to what it implies."""
    left = ((sums.targets - sums.gram() @ head.weight) * head.weight).sum() / head.weight.square().sum()
    return min(PENALTIES, key=lambda penalty: abs(math.log(penalty) - math.log(max(float(left), PENALTIES[0]))))
