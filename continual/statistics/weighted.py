"""Sums over images that count for less than one."""

from __future__ import annotations

from torch import Tensor

from continual.statistics.class_statistics import leading
from continual.statistics.ridge import GramStatistics, class_sums
from continual.statistics.triangles import lower_products


def weighted_sums(
    features: Tensor, labels: Tensor, weights: Tensor, classes: int, directions: int = 0
) -> GramStatistics:
    """Sum over features (n, D) with class indices (n,), each as often as its weight (n,) says, which is 0 or more.

    Of `GramStatistics.of` it is the same with weights of 1. `directions` of each class's scatter are kept.
    """
    x, w = features if features.device.type == "mps" else features.double(), weights.to(features.device)
    w = w.to(x.dtype)[:, None]
    scatter = x.new_zeros(classes, directions, x.shape[1]) if directions else None
    if scatter is not None:
        for label in labels[w[:, 0] > 0].unique().tolist():
            own, share = x[labels == label], w[labels == label]
            rows = (own - (own * share).sum(0) / share.sum()) * share.sqrt()
            scatter[label] = leading(rows, directions)[0].mT
    weighed = x * w
    targets, counts = class_sums(weighed, labels, classes, w)
    return GramStatistics(weighed.sum(0), lower_products(weighed.mT, x), targets, counts, scatter)
