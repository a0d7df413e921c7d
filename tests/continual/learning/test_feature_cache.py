"""A feature is computed once for each image and set of weights, and predictions do not change by it."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from continual.learning.feature_cache import FeatureCache
from continual.methods import method, methods


def test_only_what_is_new_is_computed() -> None:
    images = torch.rand(4, 3, 2, 2)
    asked: list[list[int]] = []

    def compute(rows: torch.Tensor) -> torch.Tensor:
        asked.append(rows.tolist())
        return images[rows].flatten(1)

    cache = FeatureCache()
    first = cache.features(images[:3], ["a", "a", "b"], compute)
    again = cache.features(images, ["a", "b", "b", "a"], compute)
    assert asked == [[0, 1, 2], [1, 3]]
    assert torch.equal(first, images[:3].flatten(1))
    assert torch.equal(again, images.flatten(1))


@pytest.mark.parametrize("name", methods())
def test_predictions_are_the_same_with_a_cache(name: str, backbone: Any, blobs: Any) -> None:
    quick = {"epochs": 1, "batch_size": 8, "projection": 30}
    settings = {k: v for k, v in quick.items() if k in method(name).settings_type.model_fields}
    learner, cache = method(name)(backbone, **settings), FeatureCache()
    images, _ = blobs([0, 1, 2, 3], 4, seed=1)
    for classes in ([0, 1], [2, 3]):
        learner.learn(*blobs(classes, 4))
        plain = learner.predict(images)
        for _ in range(2):
            cached = learner.predict(images, cache=cache)
            assert cached.labels == plain.labels
            assert torch.allclose(cached.scores, plain.scores, atol=1e-6)
