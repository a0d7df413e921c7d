"""What one cell of a benchmark (a method with a seed) measures, and the rows of the results table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np

from continual.backbones.loading import Backbone
from continual.datasets.streams import Stream
from continual.learning.answers import Prediction
from continual.metrics import measures
from continual.metrics.base import Series, mean
from continual.metrics.cell import Cell, Evaluation


def empty_cell(
    label: str,
    method: str,
    seed: int,
    settings: dict[str, Any],
    backbone: Backbone,
    stream: Stream,
    groups: Mapping[str, int] | None = None,
) -> Cell:
    """Return a cell with nothing measured yet; `groups` are those of transformed images, with their orders."""
    tested = [e.test_labels for e in stream.experiences]
    seen = [set().union(*[e.classes for e in stream.experiences[:n]]) for n in range(len(tested) + 1)]
    new = [len(after) - len(before) for before, after in pairwise(seen)]
    truth = _positions([label for labels in tested for label in labels], stream)
    counts = [len(labels) for labels in tested]
    return Cell(label, method, seed, settings, backbone.sha256, counts, new, truth, dict(groups or {}))


def measured(
    cell: Cell,
    predictions: Sequence[Prediction],
    stream: Stream,
    *,
    memory: Mapping[str, int],
    transformed: Mapping[str, Sequence[Prediction]] | None = None,
    **costs: Any,
) -> Cell:
    """Return the cell with the predictions on each experience's test images after one more was learned.

    Predictions on experiences that are yet to be learned may follow; they count for forward transfer only. By group,
    those on `transformed` images. The `costs` are named as in `Evaluation`.
    """
    stacks: dict[str, Any] = {name: _joined(predictions, name) for name in ("stack", "first_stack", "refinements")}
    evaluation = Evaluation(
        answers=_positions(_labels(predictions), stream),
        confidence=np.concatenate([p.scores.amax(-1).numpy() for p in predictions]).tolist(),
        memory=sum(memory.values()),
        transformed={name: _positions(_labels(found), stream) for name, found in (transformed or {}).items()},
        **stacks,
        **costs,
    )
    return replace(cell, evaluations=(*cell.evaluations, evaluation))


def _labels(predictions: Sequence[Prediction]) -> list[Any]:
    return [label for prediction in predictions for label in prediction.labels]


def _positions(labels: Sequence[Any], stream: Stream) -> list[int]:
    position = {label: i for i, label in enumerate(stream.class_order)}
    return [position[label] for label in labels]


def _joined(predictions: Sequence[Prediction], name: str) -> list[int] | None:
    parts = [getattr(prediction, name) for prediction in predictions]
    return None if parts[0] is None else [value for part in parts for value in part.tolist()]


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


def rows(cells: Sequence[Cell]) -> list[Row]:
    """Gather cells of the same label, in the order of their first appearance."""
    out = []
    for label, alike in by_label(cells).items():
        values = {metric.name: [metric.figure(cell) for cell in alike] for metric in measures(cells)}
        means = {key: mean(v) for key, v in values.items()}
        spread = {key: _deviation(v) for key, v in values.items()}
        out.append(Row(label, alike[0].method, len(alike), means, spread))
    return out


def by_label(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    """Group cells by their labels, in the order of their first appearance."""
    grouped: dict[str, list[Cell]] = {}
    for cell in cells:
        grouped.setdefault(cell.label, []).append(cell)
    return grouped


def _deviation(values: Series) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 and None not in values else None  # type: ignore[arg-type]
