"""APER, RanPAC and ridge against their formulas, computed here in the plainest way."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import cosine_similarity, normalize, one_hot

from continual.adapters.bank import shared
from continual.adapters.bottleneck import Bottleneck
from continual.data.inputs import as_experience
from continual.learning.loop import run
from continual.methods.aper import APERLearner
from continual.methods.bases.adapter_training import CosineLogits
from continual.methods.ease import EASELearner
from continual.methods.ranpac import RanPACLearner
from continual.methods.ridge import RidgeLearner
from continual.statistics.fields import pack

TRAINING = {"epochs": 1, "batch_size": 8, "bottleneck": 4, "lr": 0.05}


def prepared(learner: Any, images: torch.Tensor) -> torch.Tensor:
    view = learner.backbone.preprocessing.evaluation()
    return torch.stack([view(image) for image in images])


def test_aper_is_the_cosine_to_means_of_both_features(backbone: Any, blobs: Any) -> None:
    learner = APERLearner(backbone, **TRAINING)
    streams = [blobs([0, 1], 4), blobs([2], 4)]
    for images, labels in streams:
        learner.learn(images, labels)
    assert learner.state.stack is not None
    stack = shared(Bottleneck(adapter_scale=0.1), learner.state.stack)

    def features(images: torch.Tensor) -> torch.Tensor:
        inputs = prepared(learner, images)
        with torch.no_grad():
            return torch.cat([learner.extractor.features(inputs), learner.extractor.features(inputs, stack)], 1)

    images, labels = torch.cat([s[0] for s in streams]), torch.tensor([label for s in streams for label in s[1]])
    means = torch.stack([features(images)[labels == c].mean(0) for c in range(3)])
    test = blobs([0, 1, 2], 3, seed=1)[0]
    expected = (normalize(features(test)) @ normalize(means).T).softmax(1)
    assert torch.allclose(learner.predict(test).scores, expected, atol=1e-5)


def test_the_stack_is_trained_in_the_first_experience_only(backbone: Any, blobs: Any) -> None:
    for kind in (APERLearner, RanPACLearner):
        settings = {**TRAINING, "projection": 30} if kind is RanPACLearner else TRAINING
        learner: Any = kind(backbone, **settings)
        learner.learn(*blobs([0, 1], 4))
        first = learner.state.stack
        assert first["up_weight"].abs().max() > 0
        learner.learn(*blobs([2, 3], 4))
        assert all(torch.equal(first[name], learner.state.stack[name]) for name in first)


@pytest.mark.parametrize(("kind", "rate"), [(APERLearner, 0.01), (RanPACLearner, 0.01), (EASELearner, 0.025)])
def test_stacks_are_trained_under_a_temporary_cosine_head(backbone: Any, blobs: Any, kind: Any, rate: float) -> None:
    learner = kind(backbone, epochs=1)
    images, labels = blobs([0, 1, 2], 2)
    training = learner.begin(as_experience(images, labels, backbone.preprocessing))
    assert [group["lr"] for group in training.parameter_groups()] == [rate, rate]
    head = training.head
    assert isinstance(head, CosineLogits)
    assert any(head is module for module in training.modules.values())
    with torch.no_grad():
        head.scale.fill_(3.0)
        output = training.forward(prepared(learner, images))
    expected = 3 * cosine_similarity(output.features[:, None], head.weight[None], dim=-1)
    torch.testing.assert_close(output.logits, expected)
    head.scale.data.fill_(1.0)
    run(training)
    assert head.scale != 1


def test_ranpacs_strength_is_chosen_on_the_newest_experience_alone(
    backbone: Any, blobs: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[Any] = []

    def choose(before: Any, features: torch.Tensor, *_: Any, **__: Any) -> float:
        calls.append((before, len(features)))
        return 10.0

    monkeypatch.setattr("continual.methods.ranpac.choose_penalty", choose)
    learner = RanPACLearner(backbone, projection=10, **TRAINING)
    learner.learn(*blobs([0, 1], 4))
    learner.learn(*blobs([2], 3))
    assert calls == [(None, 8), (None, 3)]


def test_ranpac_solves_over_all_experiences_at_once(backbone: Any, blobs: Any) -> None:
    learner = RanPACLearner(backbone, projection=40, **TRAINING)
    streams = [blobs([0, 1], 6), blobs([2], 6)]
    for images, labels in streams:
        learner.learn(images, labels)
    state = learner.state
    assert state.stack is not None
    assert state.head is not None
    images, labels = torch.cat([s[0] for s in streams]), torch.tensor([label for s in streams for label in s[1]])
    with torch.no_grad():
        z = learner.extractor.features(prepared(learner, images), shared(Bottleneck(adapter_scale=0.1), state.stack))
    h, y = learner.project(z).double(), one_hot(labels, 3).double()
    solutions = [
        torch.linalg.solve(h.T @ h + 10.0**k * torch.eye(40, dtype=torch.float64), h.T @ y) for k in range(-8, 9)
    ]
    nearest = min(float((state.head.weight - w).abs().max() / w.abs().max()) for w in solutions)
    assert nearest < 1e-3


def test_ridge_does_not_mind_how_classes_are_split_over_experiences(backbone: Any, blobs: Any) -> None:
    images, labels = blobs([0, 1, 2, 3], 6)
    together, apart = RidgeLearner(backbone), RidgeLearner(backbone)
    together.learn(images, labels)
    for classes in ([0, 1], [2], [3]):
        apart.learn(*blobs(classes, 6))
    assert together.state.sums is not None
    assert apart.state.sums is not None
    (expected, _), (found, _) = pack(together.state.sums), pack(apart.state.sums)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        assert torch.allclose(tensor, found[name], rtol=1e-5)


def test_ranpac_that_began_without_a_stack_goes_on_without(backbone: Any, blobs: Any) -> None:
    frozen = RanPACLearner(backbone, epochs=0, projection=20)
    frozen.learn(*blobs([0, 1], 4))
    other = frozen.variant(epochs=1)
    for learner in (frozen, other):
        learner.learn(*blobs([2], 4))
    assert other.state.stack == {}
    assert torch.equal(other.state.head.weight, frozen.state.head.weight)
