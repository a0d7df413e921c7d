"""What a learner has learned, and what it answers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor

from continual.data import Label


@dataclass(frozen=True)
class State:
    """Everything a learner has learned. It is never changed, only replaced by the next one."""

    classes: tuple[Label, ...] = ()  #: in the order they were learned; the index of a logit
    class_experience: tuple[int, ...] = ()  #: which experience introduced each class, from 0
    experiences: int = 0  #: experiences that brought at least one new class
    updates: int = 0  #: calls of `learn`


S = TypeVar("S", bound=State)


@dataclass(frozen=True)
class Prediction:
    """Answers for a batch of B images; C classes are known."""

    labels: list[Label]  #: the answer for each image
    scores: Tensor  #: (B, C), non-negative, rows sum to 1
    classes: tuple[Label, ...]  #: what the columns of `scores` stand for
    stack: Tensor | None = None  #: (B,) int64, the experience whose adapters answered
    first_stack: Tensor | None = None  #: (B,) int64, stage one's choice, before refinement
    refinements: Tensor | None = None  #: (B,) int64, how often the choice was changed


@dataclass(frozen=True)
class Scores:
    """What a method says about a batch: `values` (B, C) and, if it retrieves stacks, which."""

    values: Tensor
    stack: Tensor | None = None
    first_stack: Tensor | None = None
    refinements: Tensor | None = None

    def cpu(self) -> Scores:
        """Return the same on the CPU."""
        columns: list[Any] = [value if value is None else value.cpu() for value in self._columns()]
        return Scores(*columns)

    @staticmethod
    def joined(parts: Sequence[Scores]) -> Scores:
        """Join batches, one after the other."""
        columns: list[Any] = [
            None if column[0] is None else torch.cat(column)
            for column in zip(*[part._columns() for part in parts], strict=True)
        ]
        return Scores(*columns)

    def _columns(self) -> tuple[Any, ...]:
        return self.values, self.stack, self.first_stack, self.refinements


def replace_state(state: State, kind: type[S], **values: Any) -> S:
    """Build a method's state from the common fields of `state` and its own `values`."""
    return kind(**{f.name: getattr(state, f.name) for f in fields(State)}, **values)
