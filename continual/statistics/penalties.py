"""The penalty of a ridge regression, chosen on images that are held out of the newest."""

from __future__ import annotations

import math
from collections.abc import Iterator

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
    sums = GramStatistics.of(features[kept], labels[kept], classes).plus(before)
    x, each = features[held].to(sums.total.dtype), sums.image_weights(balance)
    if before is None and not standardise and len(kept) < features.shape[1]:
        answers = _by_images(x, features[kept].to(x.dtype), labels[kept], each if balance else torch.ones_like(each))
    else:
        weighted = sums.balanced(balance)
        answers = ((penalty, solve(weighted, penalty, standardise=standardise)(x)) for penalty in PENALTIES)
    y = torch.nn.functional.one_hot(labels[held], classes).to(x.dtype)
    weights = each[labels[held], None]
    errors = {penalty: float(((values - y).square() * weights).mean()) for penalty, values in answers}
    # A penalty too weak to be solved with has the error nan.
    return min((s for s in errors if errors[s] == errors[s]), key=lambda s: errors[s])


def _by_images(asked: Tensor, images: Tensor, labels: Tensor, each: Tensor) -> Iterator[tuple[float, Tensor]]:
    """Give the answers (m, C) of `plainly_solved` to `asked` (m, D) for every penalty, from fewer images (n, D) than D.

    `x^T (X^T X + p I)^-1 X^T Y = x^T X^T (X X^T + p I)^-1 Y`, and X X^T (n, n) has its eigenvalues taken once. `each`
    (C,) are the weights of a class's images; penalties that vanish beside the largest eigenvalue are passed over.
    """
    counts = torch.bincount(labels, minlength=len(each)).clamp(min=1)
    y = torch.nn.functional.one_hot(labels, len(each)).to(images.dtype)
    roots = each.sqrt()
    # As in `balanced`, a class's mean alone is moved: its images' scatter around it counts as before.
    means = (images.mT @ y / counts).mT
    weighted = images + (roots - 1)[labels, None] * means[labels]
    # MPS has no eigenvalues.
    values, vectors = (found.to(images) for found in torch.linalg.eigh((weighted @ weighted.mT).cpu()))
    rows, columns = asked @ weighted.mT @ vectors, vectors.mT @ (y * roots)
    least = float(values[-1]) * torch.finfo(values.dtype).eps
    for penalty in PENALTIES:
        if penalty > least:
            yield penalty, (rows / (values.clamp(min=0) + penalty)) @ columns


def penalty_of(sums: GramStatistics, head: LinearHead) -> float:
    """Return which of PENALTIES an unstandardised head of the sums was solved with: that nearest to what it implies."""
    left = ((sums.targets - sums.gram() @ head.weight) * head.weight).sum() / head.weight.square().sum()
    return min(PENALTIES, key=lambda penalty: abs(math.log(penalty) - math.log(max(float(left), PENALTIES[0]))))
