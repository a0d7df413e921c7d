"""Fine-tuning, joint training and prototypes: the bounds that MOS is compared with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import continual
from continual.backbones.loading import Backbone
from continual.errors import InputError
from continual.methods.finetune import FinetuneLearner
from continual.methods.joint import JointLearner, JointState
from continual.methods.simple_cil import SimpleCILLearner

Blobs = Callable[..., tuple[Tensor, list[int]]]
QUICK: dict[str, Any] = {"epochs": 3, "batch_size": 4, "lr": 0.05, "bottleneck": 4}


def learn(learner: Any, blobs: Blobs, *stream: list[int]) -> Any:
    for classes in stream:
        learner.learn(*blobs(classes, 4))
    return learner


@pytest.mark.parametrize("kind", [FinetuneLearner, JointLearner])
def test_memory_is_one_stack_and_a_head_row_a_class(kind: Any, backbone: Backbone, blobs: Blobs) -> None:
    learner = learn(kind(backbone, **QUICK), blobs, [0, 1], [2])
    d, r = backbone.width, 4
    assert learner.memory() == {
        "head": 4 * 3 * (d + 1),
        "stack": 4 * backbone.depth * (2 * r * d + r + d),
    }


def test_fine_tuning_on_new_classes_leaves_old_rows(backbone: Backbone, blobs: Blobs) -> None:
    def head(logits: str, *stream: list[int]) -> Tensor:
        learner = FinetuneLearner(backbone, **QUICK, logits=logits, weight_decay=0.0)
        weight: Tensor = learn(learner, blobs, *stream).state.head.weight
        return weight

    assert torch.equal(head("new", [0, 1]), head("new", [0, 1], [2, 3])[:2])
    assert not torch.equal(head("seen", [0, 1]), head("seen", [0, 1], [2, 3])[:2])


def test_fine_tuning_trains_a_class_that_returns(backbone: Backbone, blobs: Blobs) -> None:
    learner = learn(FinetuneLearner(backbone, **QUICK), blobs, [0, 1])
    before = learner.state
    learn(learner, blobs, [1])
    assert not torch.equal(before.head.weight, learner.state.head.weight)


def test_joint_training_starts_anew_on_all_images(backbone: Backbone, blobs: Blobs) -> None:
    learner = learn(JointLearner(backbone, **{**QUICK, "epochs": 0}), blobs, [0, 1], [2])
    assert isinstance(learner.state, JointState)
    assert [list(part.labels) for part in learner.state.seen] == [[0] * 4 + [1] * 4, [2] * 4]
    assert not learner.state.stack["up_weight"].any()

    steps: list[int] = []
    learner.variant(epochs=1).learn(*blobs([3], 4), progress=lambda _s, done, total, _f: steps.append(total))
    assert steps[-1] == 16 / 4


def test_joint_training_does_not_go_on_from_a_file(backbone: Backbone, blobs: Blobs, tmp_path: Path) -> None:
    learn(JointLearner(backbone, **QUICK), blobs, [0, 1]).save(tmp_path / "model")
    loaded = continual.load(tmp_path / "model", backbone)
    with pytest.raises(InputError, match="its images are not in the file"):
        learn(loaded, blobs, [2])
    assert loaded.classes == (0, 1)


def test_prototypes_are_class_means_and_scores_their_cosines(backbone: Backbone, blobs: Blobs) -> None:
    learner = learn(SimpleCILLearner(backbone), blobs, [0, 1])
    learner.learn(blobs([1], 3, seed=9)[0], [1] * 3)

    def features(images: Tensor) -> Tensor:
        view = backbone.preprocessing.evaluation()
        with torch.no_grad():
            return backbone.frozen.features(torch.stack([torch.Tensor(view(image)) for image in images]))

    all_of_one = torch.cat([blobs([1], 4)[0], blobs([1], 3, seed=9)[0]])
    prototypes = torch.stack([features(blobs([0], 4)[0]).mean(0), features(all_of_one).mean(0)])
    torch.testing.assert_close(learner.state.prototypes.mean, prototypes)
    asked = blobs([0, 1], 2, seed=1)[0]
    cosines = torch.nn.functional.cosine_similarity(features(asked)[:, None], prototypes[None], dim=-1)
    torch.testing.assert_close(learner.predict(asked).scores, cosines.softmax(1))
    assert learner.memory() == {"prototypes": 2 * (4 * backbone.width + 8), "temperature": 8 * (161 + 2)}


def test_fine_tuning_forgets_and_joint_training_does_not(backbone: Backbone, blobs: Blobs) -> None:
    def accuracy_on_the_first(learner: Any) -> float:
        learn(learner, blobs, [0, 1], [2, 3], [4, 5])
        return float(learner.evaluate(*blobs([0, 1], 8, seed=5)))

    settings = {**QUICK, "epochs": 12}
    assert accuracy_on_the_first(FinetuneLearner(backbone, **settings)) < 0.2
    assert accuracy_on_the_first(JointLearner(backbone, **settings)) > 0.8
    assert accuracy_on_the_first(SimpleCILLearner(backbone)) > 0.8


def test_joint_is_calibrated_on_images_that_it_did_not_train_on(backbone: Backbone, blobs: Blobs) -> None:
    plain, held = (learn(JointLearner(backbone, **QUICK, held_out=share), blobs, [0, 1], [2]) for share in (0.0, 0.5))
    images = blobs([0, 1, 2], 2, seed=1)[0]
    assert plain.predict(images).probabilities is None
    found = held.predict(images)
    assert found.probabilities is not None
    assert torch.equal(found.probabilities.argmax(1), found.scores.argmax(1))
    assert float(held.state.temperature.images) == 3 * 2
    training = held.begin(held.state.seen[-1])
    assert sorted(training.held.labels) == [0, 0, 1, 1, *4 * [2]]
    assert sorted(training.data.labels) == [0, 0, 1, 1, *4 * [2]]


def test_prototypes_have_probabilities_of_images_left_out(backbone: Backbone, blobs: Blobs) -> None:
    """Cosines differ by hundredths: their softmax is flat, and says nothing of how often an answer is right."""
    learner = learn(SimpleCILLearner(backbone), blobs, [0, 1], [2])
    found = learner.predict(blobs([0, 1, 2], 8, seed=1)[0])
    assert found.probabilities is not None
    assert found.scores.amax(1).max() < 0.6
    assert found.probabilities.amax(1).mean() > 0.8, "these classes are told apart"
    single = learn(SimpleCILLearner(backbone), blobs, [0])
    assert single.predict(blobs([0], 2)[0]).probabilities is None
    single.learn(blobs([1], 4)[0], [1] * 4)
    assert single.predict(blobs([0], 2)[0]).probabilities is not None
    kept = learner.state.temperature
    learner.correct(blobs([9], 1)[0], 1)
    assert learner.state.temperature is kept
    learner.forget(0)
    assert learner.predict(blobs([1], 2)[0]).probabilities is not None
