"""The adapters of several models in one bank, for methods that keep one for every experience."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Self

import torch

from continual.adapters.bank import completed
from continual.adapters.base import Weights
from continual.errors import InputError
from continual.learning.joining import Meeting, Place
from continual.learning.state import JointClasses
from continual.methods.bases.alignment import AlignedState
from continual.statistics.class_statistics import ClassStatistics
from continual.statistics.fields import pack
from continual.statistics.transport import FeatureMap


@dataclass(frozen=True)
class JointBank:
    """A bank of the adapters under which some class of several models is remembered; the first model's first leads."""

    bank: tuple[Weights, ...]
    places: tuple[Place, ...]  #: of each adapter, the model it is of, and its number there
    numbers: dict[Place, int]  #: of every model's adapters that are there, its number in the bank
    meeting: Meeting

    @classmethod
    def of(
        cls, banks: Sequence[Sequence[Weights]], joint: JointClasses, meeting: Meeting, shared: Collection[str] = ()
    ) -> Self:
        """Join banks; adapters that are the same to the bit are one.

        Tensors that are `shared` are the first adapter's alone, for all of a model; raises InputError where those of
        models differ.
        """
        whole = [completed(bank) for bank in banks]
        if any(not _same(bank[0], whole[0][0], shared) for bank in whole):
            raise InputError(
                "these adapters read by what the first experience of each model has trained, which differs: "
                "begin models that are to be merged from one file, or learn with adapter_args={'share_reading': false}"
            )
        bank: list[Weights] = []
        places: list[Place] = []
        numbers: dict[Place, int] = {}
        for place in sorted({(0, 0), *joint.origins}):
            mine = whole[place[0]][place[1]]
            number = next((k for k, other in enumerate(bank) if _same({**bank[0], **other}, mine, mine)), len(bank))
            if number == len(bank):
                later = {name: tensor for name, tensor in mine.items() if name not in shared}
                bank.append(later if bank else mine)
                places.append(place)
            numbers[place] = number
        # What another model has as well is there, too, even if it brought no class.
        for model, others in enumerate(whole):
            for k, mine in enumerate(others):
                if (model, k) not in numbers:
                    same = (n for n, other in enumerate(bank) if _same({**bank[0], **other}, mine, mine))
                    if (found := next(same, None)) is not None:
                        numbers[model, k] = found
        return cls(tuple(bank), tuple(places), numbers, meeting)

    def map(self, place: Place, number: int) -> FeatureMap | None:
        """Return the map of features under a model's adapter to those under one of the bank; None if it is that one."""
        return None if self.numbers.get(place) == number else self.meeting.map(place, self.places[number])

    def statistics(self, states: Sequence[AlignedState], joint: JointClasses) -> list[list[ClassStatistics | None]]:
        """Return what each state remembers of its classes, under the adapter by which the joint model knows them.

        None where an earlier state remembers the same, to the bit.
        """
        of_class = [self.numbers[origin] for origin in joint.origins]
        moved: list[list[ClassStatistics | None]] = []
        for model, (state, places, again) in enumerate(zip(states, joint.places, _again(states, joint), strict=True)):
            moved.append([])
            for own, experience, index, twice in zip(
                state.statistics, state.class_experience, places.tolist(), again, strict=True
            ):
                to = self.map((model, experience), of_class[index]) if not twice else None
                moved[-1].append(None if twice else own if to is None else to.statistics(own))
        return moved


def _same(one: Weights, other: Weights, names: Collection[str]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in names)


def _again(states: Sequence[AlignedState], joint: JointClasses) -> list[list[bool]]:
    """Return, for each state's classes, whether an earlier state remembers the same of one, to the bit."""
    known: dict[int, list[ClassStatistics]] = {}
    found = []
    for state, places in zip(states, joint.places, strict=True):
        before = [known.setdefault(index, []) for index in places.tolist()]
        pairs = list(zip(state.statistics, before, strict=True))
        found.append([any(_alike(own, other) for other in others) for own, others in pairs])
        for own, others in pairs:
            others.append(own)
    return found


def _alike(one: ClassStatistics, other: ClassStatistics) -> bool:
    (mine, values), (its, others) = pack(one), pack(other)
    return values == others and mine.keys() == its.keys() and all(torch.equal(mine[k], its[k]) for k in mine)
