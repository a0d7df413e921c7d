"""Groups of unknown images: Ward's, cut where the silhouette is largest, in a number of steps that stays small."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

from continual.uncertainty.clusters import MOST, clustered


def blobs(images: int, kinds: int, noise: float = 0.4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    truth = draw.integers(kinds, size=images)
    centres = draw.normal(size=(kinds, 32))
    return centres[truth] + noise * draw.normal(size=(images, 32)), truth


def test_groups_are_numbered_by_size_and_then_by_their_first_image() -> None:
    features = np.eye(3)[[1, 0, 0, 2, 1, 2, 2]] + 0.01
    assert clustered(features) == [1, 2, 2, 0, 1, 0, 0]


@pytest.mark.parametrize("seed", range(5))
def test_the_groups_are_those_of_wards_linkage(seed: int) -> None:
    features, truth = blobs(40, 5, noise=0.9, seed=seed)
    found = clustered(features)
    rows = features / np.linalg.norm(features, axis=1, keepdims=True)
    expected = AgglomerativeClustering(max(found) + 1, linkage="ward").fit_predict(rows)
    assert adjusted_rand_score(found, expected) == 1
    assert adjusted_rand_score(found, truth) > 0.8


def test_hundreds_of_images_are_sorted_in_as_many_steps_as_there_may_be_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    score = sklearn.metrics.silhouette_score

    def counted(far: np.ndarray, own: np.ndarray, **options: object) -> float:
        asked.append(len(set(own)))
        return score(far, own, **options)

    monkeypatch.setattr(sklearn.metrics, "silhouette_score", counted)
    features, truth = blobs(400, 12)
    assert adjusted_rand_score(clustered(features), truth) == 1
    assert asked == list(range(2, MOST + 1))


def test_images_that_are_alike_or_few_are_one_group() -> None:
    assert clustered(np.ones((4, 3))) == [0] * 4
    assert clustered(np.ones((2, 3))) == [0, 0]
