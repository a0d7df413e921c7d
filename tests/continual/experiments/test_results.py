"""A cell's measures, against predictions made up by hand."""

from __future__ import annotations

import json
from dataclasses import asdict
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from continual.datasets.streams import Stream, split_classes
from continual.experiments.results import Cell, rows
from continual.learning.answers import Prediction

BACKBONE: Any = SimpleNamespace(sha256="ab")


@pytest.fixture
def stream() -> Stream:
    """Classes "c" | "a", with two test images of each."""
    images, labels = torch.zeros(4, 3, 2, 2, dtype=torch.uint8), ["a", "a", "c", "c"]
    return split_classes("two", (images, labels), (images, labels), sizes=1, class_order=["c", "a"])


def answer(text: str, confidence: float = 0.75, stacks: tuple[list[int], list[int]] | None = None) -> Prediction:
    scores = torch.tensor([[confidence, 1 - confidence]] * len(text))
    first, stack = (None, None) if stacks is None else map(torch.tensor, stacks)
    changes = None if stacks is None else (first != stack).long()
    return Prediction(list(text), scores, ("c", "a"), stack, first, changes)


def learned(stream: Stream, label: str = "m", seed: int = 1) -> Cell:
    cell = Cell.empty(label, "mos", seed, {"seed": seed}, BACKBONE, stream)
    cell.add([answer("cc", 1.0, ([0, 0], [0, 0]))], stream, 2.0, 0.5, {"head": 8}, parameters=2)
    later = [answer("ca", 0.5, ([0, 0], [0, 1])), answer("aa", 0.75, ([0, 1], [1, 1]))]
    cost = {"inference_seconds": 0.25, "passes": 2.5}
    cell.add(later, stream, 3.0, 1.5, {"head": 16, "bank": 8}, parameters=6, waiting=0.125, **cost)
    return cell


def test_measures_by_hand(stream: Stream) -> None:
    cell = learned(stream)
    assert cell.complete
    assert cell.accuracy == [[1.0], [0.5, 1.0]]
    assert (cell.first_confusion[1], cell.confusion[1]) == ([[2, 0], [1, 1]], [[1, 1], [0, 2]])
    assert (cell.first_stack, cell.stack) == ([1.0, 0.75], [1.0, 0.75])
    assert cell.refinements == [0.0, 0.5]
    assert cell.answers == [[0, 1], [1, 1]]
    figures = cell.figures()
    assert figures == {
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
    assert cell.series()["inference_seconds"] == [None, 0.25]
    assert cell.series()["waiting"] == [None, 0.125]
    for name in ("waiting", "passes"):
        getattr(cell, name).clear()  # as read from a run of before
        assert (cell.series()[name], cell.figures()[name]) == ([None, None], None)


def test_one_experience_has_no_figure_that_needs_two(stream: Stream) -> None:
    cell = Cell.empty("m", "ridge", 1, {}, BACKBONE, stream)
    cell.add([answer("cc")], stream, 1.0, 1.0, {})
    assert not cell.complete
    figures = cell.figures()
    absent = ("old_accuracy", "forgetting", "backward_transfer", "negative_flips", "right_stack", "refinements")
    assert {name: figures[name] for name in absent} == dict.fromkeys(absent)
    assert figures["average"] == 1.0


def test_what_was_answered_before_learning_is_forward_transfer(stream: Stream) -> None:
    cell = Cell.empty("m", "ridge", 1, {}, BACKBONE, stream)
    cell.add([answer("cc"), answer("ac")], stream, 1.0, 1.0, {})
    cell.add([answer("cc"), answer("aa")], stream, 1.0, 1.0, {})
    assert cell.figures()["forward_transfer"] == 0.5
    assert cell.seen_accuracy() == [1.0, 1.0]
    assert cell.flips[1] is not None
    assert cell.flips[1]["positive"] == 0.0


def test_a_cell_goes_on_after_a_round_through_json(stream: Stream) -> None:
    half = Cell.empty("m", "mos", 1, {"seed": 1}, BACKBONE, stream)
    half.add([answer("cc", 1.0, ([0, 0], [0, 0]))], stream, 2.0, 0.5, {"head": 8}, parameters=2)
    half = Cell(**json.loads(json.dumps(asdict(half))))
    later = [answer("ca", 0.5, ([0, 0], [0, 1])), answer("aa", 0.75, ([0, 1], [1, 1]))]
    cost = {"inference_seconds": 0.25, "passes": 2.5}
    half.add(later, stream, 3.0, 1.5, {"head": 16, "bank": 8}, parameters=6, waiting=0.125, **cost)
    assert half == learned(stream)


def test_rows_are_means_and_deviations_and_keep_what_is_absent(stream: Stream) -> None:
    cells = [learned(stream, seed=1), learned(stream, seed=2), learned(stream, "other")]
    cells[1].accuracy[1] = [0.0, 1.0]
    one, other = rows(cells)
    assert (one.label, one.seeds, other.seeds) == ("m", 2, 1)
    assert one.mean["final"] == pytest.approx((0.75 + 0.5) / 2)
    assert one.deviation["final"] == pytest.approx(0.25 / 2**0.5)
    assert one.mean["forward_transfer"] is None
    assert other.deviation["final"] is None
