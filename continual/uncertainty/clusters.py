"""Images of no known class, sorted by likeness: so that a person names a few groups, and not every image."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

#: the least mean silhouette of a division that is taken for one
CLEAR = 0.1
#: groups at most: nobody names more in one go, and each number of groups that is tried costs O(n²)
MOST = 64


def clustered(features: NDArray[np.floating]) -> list[int]:
    """Return the group of each image by its features (n, D): groups count from 0, the largest first.

    Ward's linkage of features of length 1, cut into 2 to 64 groups where the mean silhouette of cosine distances
    (Rousseeuw, J. Comput. Appl. Math. 1987) is largest. Where none is clear, and of fewer than three, all images are
    one group. Groups of one size are in the order of their first images.

    >>> clustered(np.array([[1, 0.1, 0], [1, 0, 0.1], [0, 1, 0.1], [1, 0.1, 0.1], [0.1, 1, 0]]))
    [0, 0, 1, 0, 1]
    """
    from scipy.cluster.hierarchy import cut_tree, ward
    from sklearn.metrics import silhouette_score
    from sklearn.metrics.pairwise import cosine_distances

    count = len(features)
    if count < 3:
        return [0] * count
    rows = features / np.clip(np.linalg.norm(features, axis=1, keepdims=True), 1e-12, None)
    far = np.clip(cosine_distances(features), 0, None)
    np.fill_diagonal(far, 0)
    best, chosen = CLEAR, np.zeros(count, int)
    for own in cut_tree(ward(rows), range(2, min(count, MOST + 1))).T:
        clear = float(silhouette_score(far, own, metric="precomputed"))
        if clear > best:
            best, chosen = clear, own
    _, first, own, sizes = np.unique(chosen, return_index=True, return_inverse=True, return_counts=True)
    rank = np.lexsort((first, -sizes)).argsort()
    return [int(place) for place in rank[own]]
