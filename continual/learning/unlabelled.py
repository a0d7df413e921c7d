"""What a learner makes of unlabelled images: answers of its own for labels, and what each is worth."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from continual.console import count
from continual.data.inputs import Label
from continual.errors import InputError

#: images below this p-value are taken for none of the classes
UNKNOWN = 0.05
#: the share of unlabelled images that must be like some class
ENOUGH = 0.1
#: how often a closed form is solved with its own answers
ROUNDS = 3

S = TypeVar("S")


@dataclass(frozen=True)
class PseudoLabels:
    """Answers for n unlabelled images, as probabilities of C classes, and what each image counts for."""

    probabilities: Tensor  #: (n, C)
    weights: Tensor  #: (n,), 0 for what is left out

    @classmethod
    def of(cls, probabilities: Tensor, p_value: Tensor) -> PseudoLabels:
        """Weigh images (n,) by how sure the answers (n, C) are; what is unlike all classes counts for nothing."""
        return cls(probabilities, probabilities.amax(-1) * (p_value > UNKNOWN))

    @property
    def labels(self) -> Tensor:
        """The answers as class indices (n,)."""
        return self.probabilities.argmax(-1)

    @property
    def used(self) -> Tensor:
        """Which images count (n,)."""
        return self.weights > 0


@dataclass(frozen=True)
class UnlabelledUse:
    """How many unlabelled images an experience used."""

    given: int
    used: int
    weight: float  #: of how many labelled ones they counted for, together
    classes: dict[Label, int]  #: what they were taken for

    @classmethod
    def of(cls, found: PseudoLabels, classes: Sequence[Label]) -> UnlabelledUse:
        """Count; raises InputError where all but a few of the images are unlike all classes."""
        if float(found.used.float().mean()) < ENOUGH:
            raise InputError(
                f"{int(found.used.sum())} of {len(found.used)} unlabelled images are like a class that is learned: "
                "they seem to be of other classes; leave them out, or give a folder with more of these classes"
            )
        counts = torch.bincount(found.labels[found.used], minlength=len(classes)).tolist()
        shown = {label: n for label, n in zip(classes, counts, strict=True) if n}
        return cls(len(found.weights), sum(counts), float(found.weights.sum()), shown)

    @property
    def words(self) -> str:
        """Say it in one line."""
        most = sorted(self.classes.items(), key=lambda pair: -pair[1])
        shown = ", ".join(f"{label} {n}" for label, n in most[:5]) + (", …" if len(most) > 5 else "")
        return (
            f"unlabelled: {self.used} of {count(self.given, 'image')} used, the others are unlike all classes; they "
            f"counted for {self.weight:.0f} labelled ones{f' ({shown})' if shown else ''}"
        )


def self_taught(
    solve: Callable[[PseudoLabels | None], S], answer: Callable[[S], PseudoLabels]
) -> tuple[S, PseudoLabels]:
    """Solve on labelled images, then again with the answers for the unlabelled ones; return the last of both."""
    state = solve(None)
    for _ in range(ROUNDS):
        found = answer(state)
        state = solve(found)
    return state, found


def usual(left_out: Tensor, scores: Tensor) -> Tensor:
    """Return the p-values (m,) of scores (m,) among those of images left out (n,): the share that is no higher."""
    order = left_out.sort().values
    return (torch.searchsorted(order, scores.to(order), right=True) + 1) / (len(order) + 1)


def not_known(method: str) -> InputError:
    """Return what is said where nothing is known of how sure answers are."""
    return InputError(
        f"unlabelled images count as much as {method} is sure of them, and nothing says how sure it may be: it takes "
        "two classes, and a second labelled image of one of them"
    )
