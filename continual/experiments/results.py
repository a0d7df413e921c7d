"""What one cell of a benchmark (a method with a seed) measured, and the rows of the results table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from typing import Any

import numpy as np

from continual.backbones.loading import Backbone
from continual.datasets.streams import Experience, Stream
from continual.experiments.transformed import MEASURES
from continual.learning.answers import Prediction
from continual.metrics import transfer
from continual.metrics.calibration import expected_calibration_error, reliability_table
from continual.metrics.confusion import confusion, share_right
from continual.metrics.flips import flips

#: series -> field of `continual.metrics.flips.Flips`, what is compared between consecutive models
FLIPS = {
    "negative_flips": "negative",
    "positive_flips": "positive",
    "inconsistency": "inconsistency",
    "backward_trust": "backward_trust",
    "relative_negative_flips": "relative_negative",
}


@dataclass
class Cell:
    """A method's measurements on a stream with one seed; plain JSON values, one entry an experience.

    The lists that may lack entries are those of methods without stacks. Shares are of test images, of all
    experiences so far where nothing else is said; times in seconds, memory in bytes.
    """

    label: str
    method: str
    seed: int
    settings: dict[str, Any]
    backbone: str  #: SHA-256 of its weights
    test_counts: list[int]  #: test images of each experience
    class_counts: list[int]  #: classes that each experience brings, not those that were there before
    accuracy: list[list[float]] = field(default_factory=list)
    """`accuracy[i][j]` on experience j's images after learning i; j > i only where that was measured"""
    first_confusion: list[list[list[int]]] = field(default_factory=list)
    """images by right stack (row) and stage one's choice (column)"""
    confusion: list[list[list[int]]] = field(default_factory=list)
    """images by right stack (row) and the choice after refinement (column)"""
    refinements: list[float] = field(default_factory=list)
    """mean number of changes of an image's stack"""
    reliability: list[list[list[float]]] = field(default_factory=list)
    """bins of confidence: images, sum of confidence, images answered right; see `continual.metrics.calibration`"""
    flips: list[dict[str, float | None] | None] = field(default_factory=list)
    """against the model before, on the experiences it had learned; None for the first. See `continual.metrics.flips`"""
    answers: list[list[int]] = field(default_factory=list)
    """the newest model's answers, experience by experience, as positions in the class order"""
    learning_seconds: list[float] = field(default_factory=list)
    waiting: list[float | None] = field(default_factory=list)
    """share of the training loop's time in which it waited for images; None where none was trained"""
    evaluation_seconds: list[float] = field(default_factory=list)
    """of all images so far; what is frozen is remembered from one evaluation to the next"""
    inference_seconds: list[float | None] = field(default_factory=list)
    """an image, with nothing remembered"""
    memory: list[int] = field(default_factory=list)
    parameters: list[int | None] = field(default_factory=list)
    """numbers stored, the frozen backbone not counted"""

    passes: list[float | None] = field(default_factory=list)
    """forward passes of the backbone for an image"""
    turned: list[dict[str, dict[str, float]]] = field(default_factory=list)
    """by group, of test images moved by it; see `continual.experiments.transformed.turned_measures`"""

    @classmethod
    def empty(
        cls, label: str, method: str, seed: int, settings: dict[str, Any], backbone: Backbone, stream: Stream
    ) -> Cell:
        """Return a cell with nothing measured yet."""
        counts = [len(e.test_labels) for e in stream.experiences]
        seen = [set().union(*[e.classes for e in stream.experiences[:n]]) for n in range(len(counts) + 1)]
        new = [len(after) - len(before) for before, after in pairwise(seen)]
        return cls(label, method, seed, settings, backbone.sha256, counts, new)

    @property
    def complete(self) -> bool:
        """Whether the whole stream has been learned."""
        return len(self.accuracy) == len(self.test_counts)

    def add(
        self,
        predictions: Sequence[Prediction],
        stream: Stream,
        learning_seconds: float,
        evaluation_seconds: float,
        memory: Mapping[str, int],
        *,
        inference_seconds: float | None = None,
        parameters: int | None = None,
        waiting: float | None = None,
        passes: float | None = None,
        turned: Mapping[str, dict[str, float]] | None = None,
    ) -> None:
        """Record the predictions on each experience's test images after one more was learned.

        Predictions on experiences that are yet to be learned may follow; they count for forward transfer only.
        """
        position = {label: i for i, label in enumerate(stream.class_order)}
        truth = [np.array([position[label] for label in e.test_labels]) for e in stream.experiences]
        answers = [np.array([position[label] for label in p.labels]) for p in predictions]
        self.accuracy.append([float((a == y).mean()) for a, y in zip(answers, truth, strict=False)])
        known = len(self.accuracy)
        predictions, answers = predictions[:known], answers[:known]
        right = np.concatenate(truth[:known])
        confidence = np.concatenate([p.scores.amax(-1).numpy() for p in predictions])
        self.reliability.append(reliability_table(confidence, np.concatenate(answers) == right).tolist())
        if predictions[0].stack is not None:
            stacks = _stack_of_class(stream.experiences[:known], position)
            size, of_image = int(stacks.max()) + 1, stacks[right]
            self.first_confusion.append(confusion(of_image, _joined(predictions, "first_stack"), size).tolist())
            self.confusion.append(confusion(of_image, _joined(predictions, "stack"), size).tolist())
            self.refinements.append(float(_joined(predictions, "refinements").mean()))
        before = [np.array(old) for old in self.answers]
        self.flips.append(
            asdict(flips(*[np.concatenate(x[: len(before)]) for x in (before, answers, truth)])) if before else None
        )
        self.answers = [a.tolist() for a in answers]
        self.learning_seconds.append(learning_seconds)
        self.waiting.append(waiting)
        self.evaluation_seconds.append(evaluation_seconds)
        self.inference_seconds.append(inference_seconds)
        self.memory.append(sum(memory.values()))
        self.parameters.append(parameters)
        self.passes.append(passes)
        self.turned.append(dict(turned or {}))

    def matrix(self) -> transfer.Matrix:
        """Return the accuracy matrix (T, T), nan where nothing was measured."""
        size = len(self.accuracy)
        return np.array([(row + [np.nan] * size)[:size] for row in self.accuracy])

    def seen_accuracy(self) -> list[float]:
        """Return the accuracy on all classes seen after each experience."""
        return transfer.seen_accuracy(self.matrix(), self._counts).tolist()

    @property
    def first_stack(self) -> list[float | None]:
        """The share of images whose right stack is stage one's choice; no entries without stacks."""
        return [share_right(table) for table in self.first_confusion]

    @property
    def stack(self) -> list[float | None]:
        """The share of images whose right stack is the choice after refinement; no entries without stacks."""
        return [share_right(table) for table in self.confusion]

    def series(self) -> dict[str, list[float | None]]:
        """Return what was measured after each experience, lists of T; None where there is no such figure."""
        matrix, size = self.matrix(), len(self.accuracy)
        absent: list[Any] = [None] * size
        return {
            "seen_accuracy": [*self.seen_accuracy()],
            "new_accuracy": [*transfer.new_accuracy(matrix)],
            "old_accuracy": transfer.old_accuracy(matrix, self._counts),
            "forgetting": [transfer.forgetting(matrix[:n, :n]) for n in range(1, size + 1)],
            **{name: [None if f is None else f[key] for f in self.flips] for name, key in FLIPS.items()},
            "right_stack_at_first": self.first_stack or absent,
            "right_stack": self.stack or absent,
            "refinements": [*self.refinements] or absent,
            "calibration_error": [expected_calibration_error(table) for table in self.reliability],
            "learning_seconds": [*self.learning_seconds],
            "waiting": [*absent[len(self.waiting) :], *self.waiting],  # older runs did not note it
            "evaluation_seconds": [*self.evaluation_seconds],
            "inference_seconds": self.inference_seconds,
            "memory": [*self.memory],
            "parameters": [*self.parameters],
            "passes": [*self.passes] or absent,
            **{
                f"{name} {group}": [found[group][name] for found in self.turned]
                for group in (self.turned[0] if self.turned else {})
                for name in MEASURES
            },
        }

    @property
    def groups(self) -> list[str]:
        """The groups by which test images were moved."""
        return [*self.turned[0]] if self.turned else []

    def figures(self) -> dict[str, float | None]:
        """Return the cell's figures for the table: shares, seconds, bytes; None where there is no such figure.

        Of what is measured after each experience it is the last; of flips, which are between two models, the
        mean; of times, the sum; of waiting, the mean of the experiences that were trained.
        """
        series, matrix = self.series(), self.matrix()
        of_models = {name: _mean(series[name][1:]) for name in FLIPS}
        return {
            "average": float(np.mean(self.seen_accuracy())),
            "final": series["seen_accuracy"][-1],
            **{name: values[-1] for name, values in series.items() if name != "seen_accuracy"},
            "backward_transfer": transfer.backward_transfer(matrix),
            "forward_transfer": transfer.forward_transfer(matrix),
            **of_models,
            "learning_seconds": float(np.sum(self.learning_seconds)),
            "waiting": _mean([share for share in self.waiting if share is not None]),
            "evaluation_seconds": float(np.sum(self.evaluation_seconds)),
        }

    @property
    def _counts(self) -> list[int]:
        return self.test_counts[: len(self.accuracy)]


@dataclass(frozen=True)
class Row:
    """One line of the results table: mean and standard deviation (n - 1) of each figure over the seeds.

    A mean is None where a seed has no such figure, a deviation also where there is one seed.
    """

    label: str
    method: str
    seeds: int
    mean: dict[str, float | None]
    deviation: dict[str, float | None]


def rows(cells: Iterable[Cell]) -> list[Row]:
    """Gather cells of the same label, in the order of their first appearance."""
    grouped: dict[str, list[Cell]] = {}
    for cell in cells:
        grouped.setdefault(cell.label, []).append(cell)
    out = []
    for label, alike in grouped.items():
        figures = [cell.figures() for cell in alike]
        values = {key: [f.get(key) for f in figures] for key in figures[0]}
        mean = {key: _mean(v) for key, v in values.items()}
        spread = {key: _deviation(v) for key, v in values.items()}
        out.append(Row(label, alike[0].method, len(alike), mean, spread))
    return out


def _mean(values: Sequence[float | None]) -> float | None:
    return float(np.mean(values)) if values and None not in values else None  # type: ignore[arg-type]


def _deviation(values: Sequence[float | None]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 and None not in values else None  # type: ignore[arg-type]


def _stack_of_class(experiences: Sequence[Experience], position: Mapping[Any, int]) -> Any:
    """Return the stack of each class by its position: an experience that brings a new class brings a stack."""
    stacks, count = np.full(len(position), -1), 0
    for experience in experiences:
        new = [position[label] for label in experience.classes if stacks[position[label]] < 0]
        stacks[new] = count
        count += bool(new)
    return stacks


def _joined(predictions: Sequence[Prediction], name: str) -> Any:
    return np.concatenate([getattr(p, name).numpy() for p in predictions])
