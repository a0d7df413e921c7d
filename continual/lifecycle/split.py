"""Which new images are held out to evaluate on: the same ones whenever the same images are there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from continual.data.inputs import Label
from continual.lifecycle.fingerprints import near
from continual.lifecycle.seen_images import SeenImage

#: examples of near-duplicates that are kept to be shown
EXAMPLES = 5


@dataclass
class NearDuplicates:
    """Pairs of near-duplicates: how many, and some of them."""

    number: int = 0
    examples: list[tuple[int, int | str]] = field(default_factory=list)  #: a new one's place; another's, or in words

    def add(self, mine: int, other: int | str) -> None:
        """Count a pair."""
        self.number += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append((mine, other))


def split(new: Sequence[SeenImage], before: Sequence[SeenImage], share: float) -> tuple[list[bool], NearDuplicates]:
    """Say which of the new images are held out, at most that share of every class; and which are near-duplicates.

    Images of a class that are nearly the same stay on one side, also that of those seen before: an image that
    was as good as learned would flatter. The digests of the contents, as good as random numbers, say which go.
    """
    near_duplicates, beside = NearDuplicates(), defaultdict[int, list[int]](list)
    prints = [image.fingerprint for image in new]
    for a, b in near(prints, prints):
        if a < b:
            near_duplicates.add(a, b)
            if new[a].label == new[b].label:
                beside[a].append(b)
                beside[b].append(a)
    side: dict[int, bool] = {}  # of those near one that was seen before: whether all such were held out
    for a, k in near(prints, [image.fingerprint for image in before]):
        near_duplicates.add(a, f"one of {before[k].label} seen before")
        if before[k].label == new[a].label:
            side[a] = side.get(a, True) and before[k].held_out
    places = defaultdict[Label, list[int]](list)
    for place, image in enumerate(new):
        places[image.label].append(place)
    held: set[int] = set()
    for own in places.values():
        left = int(share * len(own) + 1e-9)
        groups = _components(own, beside)
        for group in sorted(groups, key=lambda group: min(new[place].digest for place in group)):
            sides = {side[place] for place in group if place in side}
            if sides == {True} and share > 0:
                held |= set(group)
            elif not sides and len(group) <= left:
                held |= set(group)
                left -= len(group)
    return [place in held for place in range(len(new))], near_duplicates


def _components(places: Sequence[int], beside: dict[int, list[int]]) -> list[list[int]]:
    """Return the places in groups that hang together."""
    groups, seen = [], set[int]()
    for place in places:
        group, todo = [], [place]
        while todo:
            one = todo.pop()
            if one not in seen:
                seen.add(one)
                group.append(one)
                todo += beside.get(one, [])
        if group:
            groups.append(group)
    return groups
