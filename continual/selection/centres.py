"""Which images of a pool stand for the others: k-means on their features, and of each group the image nearest to it.

Unlike a selection rule it looks at all features at once, so that fewer are not the first of more: the number must be
known.
"""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import normalize

from continual.seeding import derive


def nearest_to_centres(
    features: Tensor, count: int, seed: int, weights: Tensor | None = None
) -> tuple[list[int], list[int]]:
    """Return the places of `count` of features (n, D), those of large groups first, and the sizes of their groups.

    Features are scaled to length 1. `weights` (n,) say how much k-means cares for an image; what it does not care for
    is taken last. A row that is there several times is a group of its own once; the others are groups of size 0, taken
    when there is nothing else.
    """
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    rows = normalize(features.double(), dim=1).cpu()
    count, own = min(count, len(rows)), np.ones(len(rows)) if weights is None else weights.double().cpu().numpy()
    if not own.any():
        own = np.ones(len(rows))
    means = KMeans(count, n_init=1, random_state=derive(seed, "centres") % 2**32)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # fewer different images than groups
        groups = torch.from_numpy(means.fit(rows.numpy(), sample_weight=own).labels_).long()
    away = (rows - torch.from_numpy(means.cluster_centers_)[groups]).square().sum(1)
    found = []
    for group in groups.unique().tolist():
        members = (groups == group).nonzero()[:, 0]
        # What has no weight is not asked for, though it may lie at a centre.
        cared = members[torch.from_numpy(own)[members] > 0] if own[members.numpy()].any() else members
        found.append((float(own[members.numpy()].sum()), len(members), int(cared[away[cared].argmin()])))
    found.sort(key=lambda group: (-group[0], group[2]))
    picked, sizes = [place for *_, place in found], [size for _, size, _ in found]
    rest = sorted(set(range(len(rows))) - set(picked), key=lambda place: (-own[place], -float(away[place]), place))
    more = rest[: count - len(picked)]
    return picked + more, sizes + [0] * len(more)
