"""Small streams as Avalanche benchmarks, and tools to look at what a strategy learned."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from avalanche.core import SupervisedPlugin
from avalanche.evaluation.metrics import accuracy_metrics
from avalanche.logging import BaseLogger
from avalanche.training.plugins import EvaluationPlugin

from continual.datasets.streams import Stream, split_classes
from continual.learning.learner import IncrementalLearner

#: Enough training to tell the blobs apart, and batches that do not divide the images.
SETTINGS: dict[str, Any] = {"lr": 0.05, "bottleneck": 4, "seed": 5}
ALIGNMENT = {"alignment_epochs": 2}
PROJECTION = {"projection": 50}
EPOCHS, BATCH = 2, 5


def blob_stream(make: Callable[..., tuple[torch.Tensor, list[int]]], classes: int = 6, per: int = 2) -> Stream:
    """Experiences of `per` classes each, labels 0 to `classes` - 1 in order; 6 training and 3 test images a class."""
    train, test = make(list(range(classes)), 6), make(list(range(classes)), 3, seed=1)
    return split_classes("blobs", train, test, sizes=per, seed=None)


def settings_of(kind: type[IncrementalLearner[Any]]) -> dict[str, Any]:
    """Those of the settings above that a method has."""
    fields = kind.settings_type.model_fields
    return {k: v for k, v in {**SETTINGS, **ALIGNMENT, **PROJECTION}.items() if k in fields}


def plain(kind: type[IncrementalLearner[Any]], backbone: Any, stream: Stream, **more: Any) -> IncrementalLearner[Any]:
    """The learner by itself, after the whole stream."""
    loop = {k: v for k, v in {"epochs": EPOCHS, "batch_size": BATCH}.items() if k in kind.settings_type.model_fields}
    learner = kind(backbone, **{**settings_of(kind), **loop, **more})
    for experience in stream.experiences:
        learner.learn(experience.train_images, experience.train_labels)
    return learner


def assert_same(ours: IncrementalLearner[Any], theirs: IncrementalLearner[Any]) -> None:
    """The two have learned the same, bit for bit."""
    assert ours.classes == theirs.classes
    assert ours.state.class_experience == theirs.state.class_experience
    assert (ours.state.updates, ours.state.experiences) == (theirs.state.updates, theirs.state.experiences)
    (left, values), (right, others) = ours.export(), theirs.export()
    for side in (values, others):
        side.pop("value_range", None)  # what the images were given as is not what was learned of them
    assert values == others
    assert left.keys() == right.keys()
    assert left
    for name in left:
        assert torch.equal(left[name], right[name]), name


class Quiet(BaseLogger):
    """A logger that says nothing; Avalanche warns if there is none."""


def evaluator(*metrics: Any, loggers: Any = None) -> EvaluationPlugin:
    """Accuracy and the metrics given, silently."""
    accuracy = accuracy_metrics(epoch=True, experience=True, stream=True)
    return EvaluationPlugin(accuracy, *metrics, loggers=loggers or [Quiet()])


class Recorder(SupervisedPlugin):
    """Notes which hooks were called, and whether the learner had changed by then."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.updates: dict[str, list[int]] = {}
        self.outputs: list[tuple[str, torch.Tensor, torch.Tensor]] = []
        self.losses: list[float] = []

    def _note(self, strategy: Any, hook: str) -> None:
        self.calls.append(hook)
        self.updates.setdefault(hook, []).append(strategy.learner.state.updates)

    def before_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._note(strategy, "before_training_exp")

    def before_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        self._note(strategy, "before_training_epoch")

    def after_training_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self._note(strategy, "after_training_iteration")
        self.outputs.append(("train", strategy.mb_output.detach(), strategy.mb_y))
        self.losses.append(strategy.loss.item())

    def after_training_epoch(self, strategy: Any, **kwargs: Any) -> None:
        self._note(strategy, "after_training_epoch")

    def after_training_exp(self, strategy: Any, **kwargs: Any) -> None:
        self._note(strategy, "after_training_exp")

    def after_eval_iteration(self, strategy: Any, **kwargs: Any) -> None:
        self.outputs.append(("eval", strategy.mb_output, strategy.mb_y))
