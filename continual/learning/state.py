"""What a learner has learned, and what it answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from continual.data.inputs import Label
from continual.errors import InputError


@dataclass(frozen=True)
class State:
    """Everything a learner has learned. It is never changed, only replaced by the next one."""

    classes: tuple[Label, ...] = ()  #: in the order they were learned; the index of a logit
    class_experience: tuple[int, ...] = ()  #: which experience introduced each class, from 0
    experiences: int = 0  #: experiences that brought at least one new class
    updates: int = 0  #: calls of `learn` and `correct`
    fitted: Mapping[str, Tensor] = field(default_factory=dict)  #: what a symmetry fitted in the first experience

    def renamed(self, old: Label, new: Label) -> Self:
        """Return the state in which the class `old` is called `new`."""
        return replace(self, classes=tuple(new if label == old else label for label in self.classes))

    def without(self, index: int) -> Self:
        """Return the state without the class of that index; the number of experiences stays.

        Raises InputError if the method does not say what it keeps of a class.
        """
        return replace(
            self,
            classes=without_item(self.classes, index),
            class_experience=without_item(self.class_experience, index),
            **self.own_without(index),
        )

    def own_without(self, index: int) -> dict[str, Any]:
        """Return the method's own fields without what belongs to the class of that index."""
        raise InputError(f"this method cannot forget a class: {type(self).__name__} has no `own_without`")


S = TypeVar("S", bound=State)

#: of a class's index, a number of draws, and a generator: answers of before and after, class indices (count,)
Imagining = Callable[[int, int, torch.Generator], tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Prediction:
    """Answers for a batch of B images; C classes are known."""

    labels: list[Label]  #: the answer for each image
    scores: Tensor  #: (B, C), non-negative, rows sum to 1
    classes: tuple[Label, ...]  #: what the columns of `scores` stand for
    stack: Tensor | None = None  #: (B,) int64, the experience whose adapters answered
    first_stack: Tensor | None = None  #: (B,) int64, stage one's choice, before refinement
    refinements: Tensor | None = None  #: (B,) int64, how often the choice was changed
    probabilities: Tensor | None = (
        None  #: (B, C), calibrated, see `continual.uncertainty.gaussians` and `continual.uncertainty.leverage`
    )
    familiarity: Tensor | None = None  #: (B,), the share of known images expected to be at least as strange
    similarity: Tensor | None = None  #: (B, C), cosine to the prototypes (MOS: first stack; strata: standardised)
    unknown: Tensor | None = None  #: (B,) bool, where a rate of false alarms was asked for: the image is of no class


@dataclass(frozen=True)
class Scores:
    """What a method says about a batch: `values` (B, C) and, if it retrieves stacks, which."""

    values: Tensor
    stack: Tensor | None = None
    first_stack: Tensor | None = None
    refinements: Tensor | None = None
    probabilities: Tensor | None = None
    familiarity: Tensor | None = None
    similarity: Tensor | None = None

    def cpu(self) -> Scores:
        """Return the same on the CPU."""
        columns: list[Any] = [value if value is None else value.cpu() for value in self._columns()]
        return Scores(*columns)

    @staticmethod
    def averaged(views: Sequence[Scores]) -> Scores:
        """Return the mean of what is said of several views of each image, and of nothing else."""
        return Scores(torch.stack([view.values for view in views]).mean(0))

    @staticmethod
    def joined(parts: Sequence[Scores]) -> Scores:
        """Join batches, one after the other."""
        columns: list[Any] = [
            None if column[0] is None else torch.cat(column)
            for column in zip(*[part._columns() for part in parts], strict=True)
        ]
        return Scores(*columns)

    def _columns(self) -> tuple[Any, ...]:
        return tuple(getattr(self, f.name) for f in fields(self))

    def prediction(self, classes: tuple[Label, ...], unknown_rate: float | None) -> Prediction:
        """Return the answers; raises InputError for an unknown_rate where there is no familiarity to go by."""
        unknown = None
        if unknown_rate is not None:
            if self.familiarity is None:
                raise InputError(
                    "this model cannot say what is unknown: that takes a method that can (strata, ridge, mos, slca), "
                    "two classes, and images learned with this version; or leave unknown_rate out"
                )
            unknown = self.familiarity <= unknown_rate
        labels = [classes[i] for i in self.values.argmax(-1).tolist()]
        rest = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "values"}
        return Prediction(labels, self.values, classes, **rest, unknown=unknown)


def replace_state(state: State, kind: type[S], **values: Any) -> S:
    """Build a method's state from the common fields of `state` and its own `values`."""
    return kind(**{f.name: getattr(state, f.name) for f in fields(State)}, **values)


def without_item(items: tuple[Any, ...], index: int) -> tuple[Any, ...]:
    """Return the items without that of one class."""
    return items[:index] + items[index + 1 :]


def without_row(values: Tensor, index: int, axis: int = 0) -> Tensor:
    """Return a tensor without what it has of one class along `axis`."""
    return torch.cat(
        [values.narrow(axis, 0, index), values.narrow(axis, index + 1, values.shape[axis] - index - 1)], axis
    )
