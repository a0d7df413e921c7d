"""EASE against its equations, restated here in NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from continual.adapters.bank import shared
from continual.adapters.bottleneck import Bottleneck
from continual.learning.extractor import Extractor
from continual.learning.feature_cache import FeatureCache
from continual.methods.ease import EASELearner, reweighted, synthesised
from continual.statistics.head import cosine_scores

SETTINGS: dict[str, Any] = {"epochs": 1, "batch_size": 8, "bottleneck": 4, "lr": 0.1}
NOISE = np.random.RandomState(0)


def unit(rows: Any) -> Any:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def softmax(rows: Any) -> Any:
    powers = np.exp(rows - rows.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def numbers(*shape: int) -> Any:
    return NOISE.randn(*shape).astype(np.float32)


def test_an_old_class_is_synthesised_from_the_new_ones_most_like_it() -> None:
    old, new, target = numbers(3, 6), numbers(4, 6), numbers(4, 6)
    expected = np.zeros((3, 6))
    for i in range(3):
        likeness = np.array([unit(old[i]) @ unit(new[j]) for j in range(4)])
        expected[i] = sum(softmax(likeness)[j] * target[j] for j in range(4))
    found = synthesised(*map(torch.from_numpy, (old, new, target)))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6)


def test_scores_sum_the_cosines_with_the_own_subspace_in_full() -> None:
    features, prototypes, experience = numbers(3, 5, 6), numbers(3, 4, 6), np.array([0, 2, 1, 1])
    expected = np.zeros((5, 4))
    for image in range(5):
        for c in range(4):
            for space in range(3):
                weight = 1.0 if experience[c] == space else 0.1
                expected[image, c] += weight * (unit(features[space, image]) @ unit(prototypes[space, c]))
    cosines = cosine_scores(torch.from_numpy(features), torch.from_numpy(prototypes))
    found = reweighted(cosines, torch.from_numpy(experience), others=0.1)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4, atol=1e-6)


def features_of(learner: Any, images: torch.Tensor) -> Any:
    """Return (T, n, D), one pass a stack."""
    view = learner.backbone.preprocessing.evaluation()
    inputs = torch.stack([view(image) for image in images])
    with torch.no_grad():
        return np.stack(
            [
                learner.extractor.features(inputs, shared(Bottleneck(adapter_scale=0.1), stack)).numpy()
                for stack in learner.state.bank
            ]
        )


def test_the_learner_is_its_equations(backbone: Any, blobs: Any) -> None:
    learner = EASELearner(backbone, **SETTINGS)
    streams = [blobs([0, 1], 4), blobs([2], 4), blobs([3, 4], 4)]
    for images, labels in streams:
        learner.learn(images, labels)
    experience = np.array([0, 0, 1, 2, 2])
    every, labels = torch.cat([s[0] for s in streams]), np.array([label for s in streams for label in s[1]])
    found = features_of(learner, every)
    real = np.stack([[space[labels == c].mean(0) for c in range(5)] for space in found])
    expected = real.copy()
    for c in range(5):
        for space in range(experience[c] + 1, 3):
            # The classes that were new when the subspace was made, seen in the old class's own subspace.
            new = experience == space
            weights = softmax(unit(real[experience[c], c]) @ unit(real[experience[c], new]).T)
            expected[space, c] = weights @ real[space, new]
    prototypes = learner.state.prototypes
    assert prototypes is not None
    np.testing.assert_allclose(prototypes.mean.numpy(), expected, rtol=1e-3, atol=1e-5)
    assert prototypes.count.tolist() == [[4, 4, 4, 4, 4], [0, 0, 4, 4, 4], [0, 0, 0, 4, 4]]

    test = blobs([0, 1, 2, 3, 4], 2, seed=1)[0]
    cosines = np.einsum("tnd,tcd->tnc", unit(features_of(learner, test)), unit(expected))
    weights = np.where(experience == np.arange(3)[:, None], 1.0, 0.1)
    scores = softmax(np.einsum("tnc,tc->nc", cosines, weights))
    np.testing.assert_allclose(learner.predict(test).scores.numpy(), scores, atol=1e-5)


def test_each_experience_has_a_stack_of_its_own(backbone: Any, blobs: Any) -> None:
    learner = EASELearner(backbone, **{**SETTINGS, "epochs": 0})
    learner.learn(*blobs([0], 4))
    learner.learn(*blobs([1], 4))
    first, second = learner.state.bank
    assert not torch.equal(first["down_weight"], second["down_weight"])
    learner.learn(*blobs([1], 4))
    assert len(learner.state.bank) == 2


def test_a_class_that_returns_becomes_real_where_it_was_synthesised(backbone: Any, blobs: Any) -> None:
    learner = EASELearner(backbone, **SETTINGS)
    learner.learn(*blobs([0, 1], 4))
    learner.learn(*blobs([2], 4))
    again = blobs([0], 3, seed=4)[0]
    learner.learn(again, [0] * 3)
    assert learner.state.prototypes is not None
    assert learner.state.prototypes.count.tolist() == [[7, 4, 4], [3, 0, 4]]
    np.testing.assert_allclose(
        learner.state.prototypes.mean[1, 0].numpy(), features_of(learner, again)[1].mean(0), rtol=1e-4, atol=1e-5
    )


def test_with_a_cache_only_the_newest_stack_is_run(backbone: Any, blobs: Any, monkeypatch: Any) -> None:
    learner, cache = EASELearner(backbone, **SETTINGS), FeatureCache()
    test = blobs([0], 3, seed=1)[0]
    runs: list[int] = []
    features = Extractor.features

    def counted(self: Any, images: Any, *args: Any, **kwargs: Any) -> Any:
        runs.append(1)
        return features(self, images, *args, **kwargs)

    for classes in ([0, 1], [2], [3]):
        learner.learn(*blobs(classes, 4))
        with monkeypatch.context() as patched:
            patched.setattr(Extractor, "features", counted)
            learner.predict(test, cache=cache)
    assert len(runs) == 3
