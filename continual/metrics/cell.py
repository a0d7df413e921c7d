"""What a benchmark keeps of a method with a seed: raw answers, of which every metric is computed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from functools import wraps
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

T = TypeVar("T")

Array = NDArray[Any]


class NotRecorded(LookupError):  # noqa: N818 - what a metric says of a cell, and no user sees
    """A cell lacks what a metric needs, such as the retrieved adapters of a method that retrieves none."""


@dataclass(frozen=True)
class Evaluation:
    """What was measured after one more experience: plain JSON values, times in seconds, memory in bytes.

    Lists have an entry per test image of the experiences so far, in the stream's order; images of experiences that are
    yet to be learned may follow. None is what was not measured, or what the method does not have.
    """

    learning_seconds: float
    evaluation_seconds: float  #: of all images so far; what is frozen is remembered from one evaluation to the next
    memory: int
    answers: list[int] | None = None  #: positions in the class order
    confidence: list[float] | None = None  #: the answer's probability; in runs older than 0.1.0 its score
    stack: list[int] | None = None  #: the experience whose adapters answered
    first_stack: list[int] | None = None  #: stage one's choice, before refinement
    refinements: list[int] | None = None  #: how often the choice was changed
    transformed: dict[str, list[int]] = field(default_factory=dict)
    """by group, the answers to images that were transformed by random elements other than the identity"""
    inference_seconds: float | None = None  #: per image, with nothing remembered
    waiting: float | None = None  #: data time, as a share of the training loop's time
    parameters: int | None = None  #: numbers stored, the frozen backbone not counted
    passes: float | None = None  #: forward passes of the backbone per image


@dataclass(frozen=True)
class Cell:
    """A method's measurements on a stream with one seed: plain JSON values, see `to_json`."""

    label: str
    method: str
    seed: int
    settings: dict[str, Any]
    backbone: str  #: SHA-256 of its weights
    test_counts: list[int]  #: test images of each experience
    class_counts: list[int]  #: classes that each experience brings, not those that were there before
    truth: list[int] = field(default_factory=list)  #: of all test images, as positions in the class order
    groups: dict[str, int | None] = field(default_factory=dict)
    """the groups by which test images were transformed, and their orders where they are known"""
    evaluations: tuple[Evaluation, ...] = ()  #: one per learned experience
    recorded: dict[str, Any] = field(default_factory=dict)
    """what an earlier format kept instead of raw answers, by the names given to `derived`"""
    _derived: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def complete(self) -> bool:
        """Whether the whole stream has been learned."""
        return len(self.evaluations) == len(self.test_counts)

    def each(self, name: str) -> list[Any]:
        """Return a field of every `Evaluation`, such as "memory"."""
        return [getattr(evaluation, name) for evaluation in self.evaluations]

    def arrays(self, name: str) -> list[Array]:
        """Return a list of every `Evaluation`, such as "answers", as arrays; raises NotRecorded if one is missing."""
        values = self.each(name)
        if any(value is None for value in values):
            raise NotRecorded(f"{self.label!r} has no {name}")
        return [np.asarray(value, dtype=float if name == "confidence" else int) for value in values]

    def seen(self, name: str) -> list[Array]:
        """Return `arrays` of the experiences so far alone; raises ValueError where an image has no entry."""
        found, ends = self.arrays(name), np.cumsum(self.test_counts)
        if any(len(values) < end for values, end in zip(found, ends, strict=False)):
            raise ValueError(f"{self.label!r} has fewer {name} than images")
        return [values[:end] for values, end in zip(found, ends, strict=False)]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.init}
        return {**values, "evaluations": [vars(evaluation) for evaluation in self.evaluations]}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Self:
        """Return the cell of `to_json`, or of the earlier format, which kept derived figures.

        Raises TypeError, ValueError, KeyError or IndexError for what is neither.
        """
        if "evaluations" not in values:
            values = _earlier(dict(values))
        return cls(**{**values, "evaluations": tuple(Evaluation(**e) for e in values["evaluations"])})


def derived(name: str) -> Callable[[Callable[[Cell], T]], Callable[[Cell], T]]:
    """Make a function of a cell's raw answers that is computed once, and not where the cell has it `recorded`."""

    def decorate(compute: Callable[[Cell], T]) -> Callable[[Cell], T]:
        @wraps(compute)
        def found(cell: Cell) -> T:
            if name in cell.recorded:
                return cell.recorded[name]
            if name not in cell._derived:
                cell._derived[name] = compute(cell)
            return cell._derived[name]

        return found

    return decorate


def _earlier(values: dict[str, Any]) -> dict[str, Any]:
    """Return the values of a cell that kept derived figures, in columns of one entry per experience."""
    size = len(values["accuracy"])
    names = ("accuracy", "first_confusion", "confusion", "refinements", "reliability", "flips", "turned")
    recorded = {name: kept for name in names if (kept := values.pop(name, None))}
    values.pop("answers", None)  # the last model's only
    columns = {f.name: values.pop(f.name) for f in fields(Evaluation) if values.get(f.name)}
    # What the oldest runs did not note is missing from the front.
    full = {name: [None] * (size - len(column)) + column for name, column in columns.items()}
    evaluations = [{name: column[number] for name, column in full.items()} for number in range(size)]
    groups = dict.fromkeys([*recorded.get("turned", [{}])[0]])
    known = {f.name for f in fields(Cell)}
    kept = {name: value for name, value in values.items() if name in known or value}
    return {**kept, "groups": groups, "evaluations": evaluations, "recorded": recorded}
