"""What one cell of a benchmark (a method with a seed) measures, and the rows of the results table."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
from torch import Tensor

from continual.backbones.loading import Backbone
from continual.data.inputs import Label
from continual.datasets.streams import Experience, Stream
from continual.learning.answers import Prediction
from continual.learning.learner import IncrementalLearner
from continual.methods import METHODS
from continual.metrics import measures
from continual.metrics.base import Series, mean
from continual.metrics.cell import Cell, Evaluation

#: enough images for a batch whose stacks differ, few enough to be asked after every experience
IMAGES = 32
#: and of which passes alone are counted
COUNTED = 8


def empty_cell(
    label: str, method: str, seed: int, settings: dict[str, Any], backbone: Backbone, stream: Stream, **groups: int
) -> Cell:
    """Return a cell with nothing measured yet; `groups` are those of transformed images, with their orders."""
    tested = [e.test_labels for e in stream.experiences]
    seen = [set().union(*[e.classes for e in stream.experiences[:n]]) for n in range(len(tested) + 1)]
    new = [len(after) - len(before) for before, after in pairwise(seen)]
    truth = _positions(tested, stream)
    counts = [len(labels) for labels in tested]
    return Cell(label, method, seed, settings, backbone.sha256, counts, new, truth, dict(groups))


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

    Predictions on experiences that are yet to be learned may follow; they count for forward transfer only. Those
    in `transformed`, by group, are on transformed images. The `costs` are named as in `Evaluation`.
    """
    stacks: dict[str, Any] = {name: _joined(predictions, name) for name in ("stack", "first_stack", "refinements")}
    evaluation = Evaluation(
        answers=_positions([p.labels for p in predictions], stream),
        confidence=_confidence(predictions),
        memory=sum(memory.values()),
        transformed={g: _positions([p.labels for p in found], stream) for g, found in (transformed or {}).items()},
        **stacks,
        **costs,
    )
    return replace(cell, evaluations=(*cell.evaluations, evaluation))


def _confidence(predictions: Sequence[Prediction]) -> list[float] | None:
    """Return the answers' probabilities; None where the method has none."""
    known = [p.probabilities.amax(-1) for p in predictions if p.probabilities is not None]
    return np.concatenate([p.numpy() for p in known]).tolist() if len(known) == len(predictions) else None


def inference_cost(
    learner: IncrementalLearner[Any], experiences: Sequence[Experience], *, timed: bool = True
) -> tuple[float | None, float | None]:
    """Return what it takes to answer one of the test images of all experiences, with nothing remembered.

    That is seconds, loading and preparing the image included: the better of two tries at one batch, so expect some
    noise; None unless `timed`, when fewer images are asked about. And forward passes of the whole backbone, from the
    images that its blocks or stages are given; None for learners that do not run it.
    """
    learner = learner.variant()
    learner.store = None
    share = max(1, (IMAGES if timed else COUNTED) // len(experiences))
    images = [image for e in experiences for _, image in zip(range(share), e.test_images, strict=False)]
    stages, passed, tries = learner.backbone.frozen.stages, 0, []

    def count(_: Any, given: tuple[Tensor, ...]) -> None:
        nonlocal passed
        passed += len(given[0])

    hooks = [module.register_forward_pre_hook(count) for module in stages]
    try:
        for _ in range(2 if timed else 1):
            started = time.perf_counter()
            learner.predict(images)
            tries.append((time.perf_counter() - started) / len(images))
    finally:
        for hook in hooks:
            hook.remove()
    return min(tries) if timed else None, passed / (len(tries) * len(stages) * len(images)) or None


def _positions(parts: Iterable[Sequence[Label]], stream: Stream) -> list[int]:
    position = {label: i for i, label in enumerate(stream.class_order)}
    return [position[label] for labels in parts for label in labels]


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
    out, metrics = [], measures(cells)
    for label, alike in by_label(cells).items():
        values: dict[str, Series] = {metric.name: [metric.figure(cell) for cell in alike] for metric in metrics}
        means, spread = ({key: f(v) for key, v in values.items()} for f in (mean, _deviation))
        out.append(Row(label, alike[0].method, len(alike), means, spread))
    return out


def keeps_images(method: str) -> bool:
    """Tell whether a method of this library keeps images it has seen, and so is a bound for those that do not."""
    return method in METHODS.all() and not METHODS.all()[method].exemplar_free


def by_label(cells: Iterable[Cell]) -> dict[str, list[Cell]]:
    """Group cells by their labels, in the order of their first appearance."""
    grouped: dict[str, list[Cell]] = {}
    for cell in cells:
        grouped.setdefault(cell.label, []).append(cell)
    return grouped


def _deviation(values: Series) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 and None not in values else None  # type: ignore[arg-type]
