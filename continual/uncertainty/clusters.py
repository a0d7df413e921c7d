"""Images of no known class, sorted by likeness: so that a person names a few groups, and not every image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: the least mean silhouette of a division that is taken for one
CLEAR = 0.1


def clustered(features: NDArray[np.floating]) -> list[int]:
    """Return the group of each image by its features (n, D): groups count from 0, the largest first.

    Ward's linkage of features of length 1, cut where the mean silhouette of cosine distances (Rousseeuw, J. Comput.
    Appl. Math. 1987) is largest. Where none is clear, and of fewer than three, all images are one group.

    >>> clustered(np.array([[1, 0.1, 0], [1, 0, 0.1], [0, 1, 0.1], [1, 0.1, 0.1], [0.1, 1, 0]]))
    [0, 0, 1, 0, 1]
    """
    from sklearn.cluster import AgglomerativeClustering
    from sklearn.metrics import silhouette_score
    from sklearn.metrics.pairwise import cosine_distances

    count = len(features)
    if count < 3:
        return [0] * count
    rows = features / np.clip(np.linalg.norm(features, axis=1, keepdims=True), 1e-12, None)
    far = np.clip(cosine_distances(features), 0, None)
    np.fill_diagonal(far, 0)
    best, chosen = CLEAR, np.zeros(count, int)
    for groups in range(2, count):
        own = AgglomerativeClustering(groups, linkage="ward").fit_predict(rows)
        clear = float(silhouette_score(far, own, metric="precomputed"))
        if clear > best:
            best, chosen = clear, own
    sizes = np.bincount(chosen)
    rank = {group: place for place, group in enumerate(np.argsort(-sizes, kind="stable"))}
    return [int(rank[group]) for group in chosen]
