"""Measures as Avalanche metrics, for any strategy that predicts classes:

    evaluator = EvaluationPlugin(*flip_metrics(), *calibration_metrics())

They are those of `continual.metrics`. What is not defined, such as flips of the first model, is not emitted.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from avalanche.evaluation import GenericPluginMetric, Metric, PluginMetric
from avalanche.evaluation.metric_results import MetricValue
from avalanche.evaluation.metric_utils import get_metric_name

from continual.avalanche.strategy import LearnerStrategy
from continual.metrics.calibration import BINS, expected_calibration_error, reliability_table
from continual.metrics.flips import flips


def flip_metrics() -> list[PluginMetric[Any]]:
    """Return negative and positive flip rate, inconsistency and backward trust, of a stream."""
    return [FlipMetrics()]


def calibration_metrics(*, experience: bool = False, stream: bool = True, bins: int = BINS) -> list[PluginMetric[Any]]:
    """Return the expected calibration error of `softmax(mb_output)`, of each experience and of a stream."""
    wanted = {"experience": experience, "stream": stream}
    return [CalibrationError(bins, place) for place, on in wanted.items() if on]


def retrieval_metrics() -> list[PluginMetric[Any]]:
    """Return how often MOS retrieves the right adapter, at first and refined, and the refinements per image."""
    return [RetrievalMetrics()]


class _StreamMetric(PluginMetric[dict[str, float]]):
    """Values by name, emitted when a stream has been evaluated."""

    def after_eval(self, strategy: Any) -> list[MetricValue]:
        position = strategy.clock.train_iterations
        return [
            MetricValue(self, get_metric_name(f"{name}_Stream", strategy, add_task=False), value, position)
            for name, value in self.result().items()
        ]


class FlipMetrics(_StreamMetric):
    """Flips against the model that was evaluated before the newest training began (see `continual.metrics.flips`).

    Compared are the test images of experiences which that model had been trained on; experience k of the evaluated
    stream tests experience k of the training stream, with its images in the same order each time, as in Avalanche.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        """Forget every model."""
        self._old: dict[Any, list[Any]] = {}
        self._new: dict[Any, list[Any]] = {}  #: (stream, experience) -> its minibatches' answers and truth
        self._old_knows: set[int] = set()
        self._new_knows: set[int] = set()
        self._evaluated: list[Any] = []

    def before_training_exp(self, strategy: Any) -> None:
        """Take the model evaluated last, if any was since the training before, as the older one."""
        if self._new:
            self._old, self._old_knows, self._new = self._new, set(self._new_knows), {}
        self._new_knows.add(strategy.experience.current_experience)

    def before_eval(self, strategy: Any) -> None:
        """Begin a stream."""
        self._evaluated = []

    def before_eval_exp(self, strategy: Any) -> None:
        """Begin another experience."""
        key = strategy.experience.origin_stream.name, strategy.experience.current_experience
        self._evaluated.append(key)
        self._new[key] = []

    def after_eval_iteration(self, strategy: Any) -> None:
        """Note the answers."""
        answers, truth = strategy.mb_output.argmax(1), strategy.mb_y
        self._new[self._evaluated[-1]].append(torch.stack([answers, truth]).cpu().numpy())

    def result(self) -> dict[str, float]:
        """Return the shares by name, none before there are two models to compare."""
        common = [key for key in self._evaluated if key in self._old and key[1] in self._old_knows]
        if not common:
            return {}
        old, new = (np.concatenate([part for k in common for part in side[k]], 1) for side in (self._old, self._new))
        if not np.array_equal(old[1], new[1]):
            raise ValueError("the images of the evaluated stream have changed their order: evaluate without shuffling")
        found = flips(old[0], new[0], new[1])
        named = {
            "NegativeFlipRate": found.negative,
            "PositiveFlipRate": found.positive,
            "Inconsistency": found.inconsistency,
            "BackwardTrust": found.backward_trust,
        }
        return {name: value for name, value in named.items() if value is not None}


class _Reliability(Metric[float]):
    def __init__(self, bins: int) -> None:
        self.table = reliability_table([], [], bins)

    def update(self, scores: Any, truth: Any, labels: Any = None) -> None:
        confidence, answers = scores.max(1)
        answers = answers if labels is None else labels[answers]
        correct = (answers == truth).cpu().numpy()
        self.table += reliability_table(confidence.cpu().numpy(), correct, len(self.table))

    def result(self) -> float | None:
        return expected_calibration_error(self.table)

    def reset(self) -> None:
        self.table[:] = 0


class CalibrationError(GenericPluginMetric[float, _Reliability]):
    """Expected calibration error; see `continual.metrics.calibration`.

    Of a learner's strategy it is that of its probabilities, and there is none where the method has none; of others that
    of the softmax of their output.
    """

    def __init__(self, bins: int = BINS, emit_at: str = "stream") -> None:
        super().__init__(_Reliability(bins), reset_at=emit_at, emit_at=emit_at, mode="eval")

    def update(self, strategy: Any) -> None:
        """Add a minibatch."""
        if not isinstance(strategy, LearnerStrategy):
            self._metric.update(strategy.mb_output.detach().float().softmax(1), strategy.mb_y)
        elif strategy.scores is not None and strategy.scores.probabilities is not None:
            labels = torch.tensor(strategy.model.learner.classes)
            self._metric.update(strategy.scores.probabilities, strategy.mb_y.cpu(), labels)

    def __str__(self) -> str:
        return f"CalibrationError_{'Exp' if self._emit_at == 'experience' else 'Stream'}"


class RetrievalMetrics(_StreamMetric):
    """Adapter-retrieval accuracy at first and refined, and refinements per image; nothing where none is retrieved.

    Images of classes that are yet to be learned have no right adapter and do not count.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reset()

    def reset(self) -> None:
        """Begin from nothing."""
        self._images = 0
        self._sums = {"RightStackAtFirst": 0, "RightStack": 0, "Refinements": 0}

    def before_eval(self, strategy: Any) -> None:
        """Begin a stream."""
        self.reset()

    def after_eval_iteration(self, strategy: Any) -> None:
        """Add a minibatch."""
        for right, first, stack, refinements in _retrieved(strategy):
            self._images += 1
            self._sums["RightStackAtFirst"] += first == right
            self._sums["RightStack"] += stack == right
            self._sums["Refinements"] += refinements

    def result(self) -> dict[str, float]:
        """Return the shares and the mean number of changes."""
        return {name: total / self._images for name, total in self._sums.items()} if self._images else {}


def _retrieved(strategy: Any) -> Iterator[tuple[int, int, int, int]]:
    """Yield right adapter, first choice, last choice and number of changes, of each image of a learned class."""
    if not isinstance(strategy, LearnerStrategy) or strategy.scores is None or strategy.scores.stack is None:
        return
    state, scores = strategy.model.learner.state, strategy.scores.cpu()
    right = dict(zip(state.classes, state.class_experience, strict=True))
    columns = (scores.first_stack.tolist(), scores.stack.tolist(), scores.refinements.tolist())
    for label, *chosen in zip(strategy.mb_y.tolist(), *columns, strict=True):
        if label in right:
            yield right[label], *chosen
