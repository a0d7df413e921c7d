"""What one cell of a benchmark (a method with a seed) measured, and the rows of the results table."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from continual import transfer
from continual.backbones import Backbone
from continual.bench.streams import Stream
from continual.learner import Prediction


@dataclass
class Cell:
    """A method's measurements on a stream with one seed; plain JSON values, one entry an experience.

    `accuracy[i][j]` is the accuracy on experience j's test images after learning i, for j <= i.
    `first_stack` and `stack` are the shares of images (of all experiences so far) whose right stack was
    chosen by stage one and after refinement; `refinements` the mean number of changes. Times in seconds,
    memory in bytes.
    """

    label: str
    method: str
    seed: int
    settings: dict[str, Any]
    backbone: str  #: SHA-256 of its weights
    test_counts: list[int]
    accuracy: list[list[float]] = field(default_factory=list)
    first_stack: list[float] = field(default_factory=list)
    stack: list[float] = field(default_factory=list)
    refinements: list[float] = field(default_factory=list)
    learning_seconds: list[float] = field(default_factory=list)
    evaluation_seconds: list[float] = field(default_factory=list)
    memory: list[int] = field(default_factory=list)

    @classmethod
    def empty(
        cls, label: str, method: str, seed: int, settings: dict[str, Any], backbone: Backbone, stream: Stream
    ) -> Cell:
        """Return a cell with nothing measured yet."""
        counts = [len(e.test_labels) for e in stream.experiences]
        return cls(label, method, seed, settings, backbone.sha256, counts)

    def add(
        self,
        predictions: Sequence[Prediction],
        stream: Stream,
        learning_seconds: float,
        evaluation_seconds: float,
        memory: dict[str, int],
    ) -> None:
        """Record the predictions on each experience's test images after one more was learned."""
        pairs = list(zip(predictions, stream.experiences, strict=False))
        self.accuracy.append([_share(p.labels, e.test_labels) for p, e in pairs])
        if predictions[0].stack is not None:
            right = np.concatenate([np.full(len(e.test_labels), j) for j, (_, e) in enumerate(pairs)])
            self.first_stack.append(float((_joined(predictions, "first_stack") == right).mean()))
            self.stack.append(float((_joined(predictions, "stack") == right).mean()))
            self.refinements.append(float(_joined(predictions, "refinements").mean()))
        self.learning_seconds.append(learning_seconds)
        self.evaluation_seconds.append(evaluation_seconds)
        self.memory.append(sum(memory.values()))

    def matrix(self) -> transfer.Matrix:
        """Return the accuracy matrix (T, T), nan above the diagonal."""
        size = len(self.accuracy)
        return np.array([row + [np.nan] * (size - len(row)) for row in self.accuracy])

    def seen_accuracy(self) -> list[float]:
        """Return the accuracy on all classes seen after each experience."""
        size = len(self.accuracy)
        return transfer.seen_accuracy(self.matrix(), self.test_counts[:size]).tolist()

    def figures(self) -> dict[str, float]:
        """Return the cell's figures for the table: shares, seconds, mebibytes; nan where not measured."""
        seen, matrix = self.seen_accuracy(), self.matrix()
        return {
            "average": float(np.mean(seen)),
            "final": seen[-1],
            "forgetting": transfer.forgetting(matrix),
            "first_stack": self.first_stack[-1] if self.first_stack else np.nan,
            "stack": self.stack[-1] if self.stack else np.nan,
            "learning_seconds": float(np.sum(self.learning_seconds)),
            "evaluation_seconds": float(np.sum(self.evaluation_seconds)),
            "memory": self.memory[-1] / 2**20,
        }


@dataclass(frozen=True)
class Row:
    """One line of the results table: mean and standard deviation (n - 1) of each figure over the seeds."""

    label: str
    seeds: int
    mean: dict[str, float]
    deviation: dict[str, float]


def rows(cells: Iterable[Cell]) -> list[Row]:
    """Gather cells of the same label, in the order of their first appearance."""
    grouped: dict[str, list[dict[str, float]]] = {}
    for cell in cells:
        grouped.setdefault(cell.label, []).append(cell.figures())
    out = []
    for label, figures in grouped.items():
        values = {key: np.array([f[key] for f in figures]) for key in figures[0]}
        mean = {key: float(v.mean()) for key, v in values.items()}
        spread = {key: float(v.std(ddof=1)) if len(v) > 1 else 0.0 for key, v in values.items()}
        out.append(Row(label, len(figures), mean, spread))
    return out


def _share(answers: Sequence[Any], truth: Sequence[Any]) -> float:
    return float(np.mean([a == b for a, b in zip(answers, truth, strict=True)]))


def _joined(predictions: Sequence[Prediction], name: str) -> Any:
    return np.concatenate([getattr(p, name).numpy() for p in predictions])
