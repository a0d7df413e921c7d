"""A cell's measures, against predictions made up by hand."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from continual.datasets.streams import Stream, split_classes
from continual.experiments.gallery import gallery
from continual.experiments.results import empty_cell, measured, rows
from continual.learning.answers import Prediction
from continual.metrics import measures, series
from continual.metrics.accuracy import accuracy, seen_accuracy
from continual.metrics.calibration import calibration_error, with_probabilities
from continual.metrics.cell import Cell
from continual.metrics.flips import positive_flips
from continual.metrics.retrieval import choices, first_choices, refinements, right_stack, right_stack_at_first

BACKBONE: Any = SimpleNamespace(sha256="ab")
COST = {"learning_seconds": 1.0, "evaluation_seconds": 1.0}


@pytest.fixture
def stream() -> Stream:
    """Classes "c" | "a", with two test images of each."""
    images, labels = torch.zeros(4, 3, 2, 2, dtype=torch.uint8), ["a", "a", "c", "c"]
    return split_classes("two", (images, labels), (images, labels), sizes=1, class_order=["c", "a"])


def figures(cell: Any) -> dict[str, float | None]:
    """Every figure of a cell by its name."""
    return {metric.name: metric.figure(cell) for metric in measures([cell])}


def answer(text: str, confidence: float = 0.75, stacks: tuple[list[int], list[int]] | None = None) -> Prediction:
    """Scores that are far from the probabilities, as those that only rank."""
    probabilities = torch.tensor([[confidence, 1 - confidence]] * len(text))
    scores = torch.tensor([[0.51, 0.49]] * len(text))
    first, stack = (None, None) if stacks is None else map(torch.tensor, stacks)
    changes = None if stacks is None else (first != stack).long()
    return Prediction(list(text), scores, ("c", "a"), stack, first, changes, probabilities)


def half_learned(stream: Stream, label: str = "m", seed: int = 1) -> Cell:
    cell = empty_cell(label, "mos", seed, {"seed": seed}, BACKBONE, stream)
    cost = {"learning_seconds": 2.0, "evaluation_seconds": 0.5, "parameters": 2}
    return measured(cell, [answer("cc", 1.0, ([0, 0], [0, 0]))], stream, memory={"head": 8}, **cost)


def all_learned(stream: Stream, cell: Cell) -> Cell:
    later = [answer("ca", 0.5, ([0, 0], [0, 1])), answer("aa", 0.75, ([0, 1], [1, 1]))]
    cost = {"learning_seconds": 3.0, "evaluation_seconds": 1.5, "parameters": 6, "waiting": 0.125}
    cost |= {"inference_seconds": 0.25, "passes": 2.5}
    return measured(cell, later, stream, memory={"head": 16, "bank": 8}, **cost)


def learned(stream: Stream, label: str = "m", seed: int = 1) -> Cell:
    return all_learned(stream, half_learned(stream, label, seed))


def test_measures_by_hand(stream: Stream) -> None:
    cell = learned(stream)
    assert cell.complete
    assert accuracy(cell) == [[1.0], [0.5, 1.0]]
    assert first_choices(cell)[1].tolist() == [[2, 0], [1, 1]]
    assert choices(cell)[1].tolist() == [[1, 1], [0, 2]]
    assert (right_stack_at_first(cell), right_stack(cell)) == ([1.0, 0.75], [1.0, 0.75])
    assert refinements(cell) == [0.0, 0.5]
    assert (cell.truth, cell.each("answers")) == ([0, 0, 1, 1], [[0, 0], [0, 1, 1, 1]])
    assert figures(cell) == {
        "average": 0.875,
        "final": 0.75,
        "new_accuracy": 1.0,
        "old_accuracy": 0.5,
        "forgetting": 0.5,
        "backward_transfer": -0.5,
        "forward_transfer": None,
        # One of the two images of "c" broke; those of "a" could not have been known.
        "negative_flips": 0.5,
        "positive_flips": 0.0,
        "inconsistency": 0.5,
        "backward_trust": 0.5,
        "relative_negative_flips": 1.0,
        "right_stack_at_first": 0.75,
        "right_stack": 0.75,
        "refinements": 0.5,
        # Confidence 0.5, 0.5 with one right; 0.75, 0.75 with two.
        "calibration_error": pytest.approx(0.125),
        "learning_seconds": 5.0,
        "waiting": 0.125,  # nothing was trained in the first
        "evaluation_seconds": 2.0,
        "inference_seconds": 0.25,
        "memory": 24,
        "parameters": 6,
        "passes": 2.5,
    }
    assert series(cell)["seen_accuracy"] == [1.0, 0.75]
    assert series(cell)["inference_seconds"] == [None, 0.25]
    assert series(cell)["waiting"] == [None, 0.125]


def test_calibration_is_of_the_probabilities_that_are_shown(stream: Stream) -> None:
    """Without any there is no figure of it, and no picture; where only the last model has none, neither."""
    cell = learned(stream)
    assert cell.each("confidence") == [[1.0, 1.0], [0.5, 0.5, 0.75, 0.75]]
    silent = [replace(answer("ca"), probabilities=None), replace(answer("aa"), probabilities=None)]
    half = measured(empty_cell("x", "finetune", 1, {}, BACKBONE, stream), [answer("cc")], stream, memory={}, **COST)
    without = measured(half, silent, stream, memory={}, **COST)
    assert without.each("confidence") == [[0.75, 0.75], None]
    assert series(without)["calibration_error"] == [pytest.approx(0.25), None]
    assert with_probabilities([cell, without]) == [cell]
    never = replace(without, evaluations=tuple(replace(e, confidence=None) for e in without.evaluations))
    assert figures(never)["calibration_error"] is None
    assert {"reliability"}.isdisjoint(picture.name for picture in gallery([never]))


def test_one_experience_has_no_figure_that_needs_two(stream: Stream) -> None:
    cell = measured(empty_cell("m", "ridge", 1, {}, BACKBONE, stream), [answer("cc")], stream, memory={}, **COST)
    assert not cell.complete
    found = figures(cell)
    absent = ("old_accuracy", "forgetting", "backward_transfer", "negative_flips", "right_stack", "refinements")
    assert {name: found[name] for name in absent} == dict.fromkeys(absent)
    assert found["average"] == 1.0


def test_what_was_answered_before_learning_is_forward_transfer(stream: Stream) -> None:
    cell = empty_cell("m", "ridge", 1, {}, BACKBONE, stream)
    cell = measured(cell, [answer("cc"), answer("ac")], stream, memory={}, **COST)
    cell = measured(cell, [answer("cc"), answer("aa")], stream, memory={}, **COST)
    assert figures(cell)["forward_transfer"] == 0.5
    assert seen_accuracy(cell) == [1.0, 1.0]
    assert positive_flips(cell) == [None, 0.0]
    assert calibration_error(cell) == [0.25, 0.25]  # of the images that could be known


def test_a_cell_goes_on_after_a_round_through_json(stream: Stream) -> None:
    half = Cell.from_json(json.loads(json.dumps(half_learned(stream).to_json())))
    assert all_learned(stream, half) == learned(stream)


def test_what_a_cell_derives_is_not_that_of_the_cell_before(stream: Stream) -> None:
    half = half_learned(stream)
    assert accuracy(half) == [[1.0]]
    assert accuracy(all_learned(stream, half)) == [[1.0], [0.5, 1.0]]


def test_rows_are_means_and_deviations_and_keep_what_is_absent(stream: Stream) -> None:
    cells = [learned(stream, seed=1), learned(stream, seed=2), learned(stream, "other")]
    first, second = cells[1].evaluations
    cells[1] = replace(cells[1], evaluations=(first, replace(second, answers=[1, 1, 1, 1])))
    one, other = rows(cells)
    assert (one.label, one.seeds, other.seeds) == ("m", 2, 1)
    assert one.mean["final"] == pytest.approx((0.75 + 0.5) / 2)
    assert one.deviation["final"] == pytest.approx(0.25 / 2**0.5)
    assert one.mean["forward_transfer"] is None
    assert other.deviation["final"] is None
