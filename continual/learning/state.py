"""What a learner has learned."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from continual.data.inputs import Label
from continual.statistics.fields import per_class, without
from continual.statistics.ignored import Ignored
from continual.symmetry.choice import GroupChoice


@dataclass(frozen=True)
class State:
    """Everything a learner has learned. It is never changed, only replaced by the next one.

    A method's state adds fields, and declares which of them hold something of every class (`per_class`), and which no
    file holds (`transient`): see `continual.statistics.fields`. What a file holds, what `forget` leaves out and what
    `memory` counts follow from that.
    """

    classes: tuple[Label, ...] = per_class(default=())  #: in the order they were learned; the index of a logit
    class_experience: tuple[int, ...] = per_class(default=())  #: which experience introduced each class, from 0
    experiences: int = 0  #: experiences that brought at least one new class
    updates: int = 0  #: calls of `learn` and `correct`
    fitted: Mapping[str, Tensor] = field(default_factory=dict)  #: what a symmetry fitted in the first experience
    value_range: str | None = None  #: what numbers meant in images that were learned, see `continual.data.ranges`
    choice: GroupChoice | None = None  #: what `group="auto"` took in the first experience
    ignored: tuple[Ignored, ...] | None = None  #: concepts that answers are not to follow; None: there are none

    def renamed(self, old: Label, new: Label) -> Self:
        """Return the state in which the class `old` is called `new`."""
        return replace(self, classes=tuple(new if label == old else label for label in self.classes))

    def without(self, index: int) -> Self:
        """Return the state without the class of that index; the number of experiences stays."""
        return without(self, index)


@dataclass(frozen=True)
class JointClasses:
    """The classes of several states together, and where those of each state are among them."""

    classes: tuple[Label, ...]
    class_experience: tuple[int, ...]
    experiences: int
    updates: int
    places: tuple[Tensor, ...]  #: of each state, (C_m,) the index of each of its classes
    origins: tuple[tuple[int, int], ...]  #: of each class, the state that brought it, and that state's experience

    @classmethod
    def of(cls, states: Sequence[State]) -> JointClasses:
        """Join the class lists in the order of the states; an experience that brings nothing new is not counted."""
        introduced: dict[Label, tuple[int, int]] = {}
        for number, state in enumerate(states):
            for label, experience in zip(state.classes, state.class_experience, strict=True):
                introduced.setdefault(label, (number, experience))
        order = {when: experience for experience, when in enumerate(sorted(set(introduced.values())))}
        index = {label: place for place, label in enumerate(introduced)}
        return cls(
            tuple(introduced),
            tuple(order[when] for when in introduced.values()),
            len(order),
            sum(state.updates for state in states),
            tuple(torch.tensor([index[label] for label in state.classes]) for state in states),
            tuple(introduced.values()),
        )

    def common(self, states: Sequence[State]) -> dict[str, Any]:
        """Return the fields that every state has: of concepts that any ignores, one of each name.

        What numbers of images meant is forgotten where it was not the same everywhere; the next images then decide.
        """
        counts = {name: getattr(self, name) for name in ("classes", "class_experience", "experiences", "updates")}
        ignored = {one.name: one for state in reversed(states) for one in state.ignored or ()}
        ranges = {state.value_range for state in states if state.value_range is not None}
        return {
            **counts,
            "fitted": states[0].fitted,
            "choice": states[0].choice,
            "value_range": ranges.pop() if len(ranges) == 1 else None,
            "ignored": tuple(ignored.values()) or None,
        }


S = TypeVar("S", bound=State)
T = TypeVar("T")

#: of a class's index, a number of draws, and a generator: answers before and after, class indices (count,)
Simulation = Callable[[int, int, torch.Generator], tuple[Tensor, Tensor]]


def learned(part: T | None) -> T:
    """Return a part of a state that is there once anything was learned."""
    assert part is not None
    return part
