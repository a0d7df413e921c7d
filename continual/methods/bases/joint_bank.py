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


def _same(one: Weights, other: Weights, names: Collection[str]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in names)
