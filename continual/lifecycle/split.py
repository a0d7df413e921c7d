"""Which new images are held out to evaluate on: the same ones whenever the same images are there."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from continual.data.inputs import Label
from continual.learning.extractor import Progress
from continual.lifecycle.groups import NearDuplicates, search
from continual.lifecycle.seen_images import SeenImage

#: puts the places of a class's images in the order in which they were taken, and says how it is known, if it is
Order = Callable[[Sequence[int]], tuple[list[int], str] | None]


@dataclass
class Split:
    """Which of some new images are held out, and what is odd about it."""

    held: list[bool]
    near: NearDuplicates
    bursts: dict[Label, str] = field(default_factory=dict)  #: classes cut by time alone, and how the time is known
    undivided: list[Label] = field(default_factory=list)  #: classes of which none is, for all are nearly the same


def split(
    new: Sequence[SeenImage],
    before: Sequence[SeenImage],
    share: float,
    order: Order = lambda _: None,
    progress: Progress | None = None,
) -> Split:
    """Say which of the new images are held out, at most that share of every class; and which are near-duplicates.

    Images of a class that are nearly the same stay on one side, also that of those seen before: an image that
    was as good as learned would flatter. The digests of the contents, as good as random numbers, say which go.
    Where that leaves none of a class because its groups are too large, as of a burst, the last ones by `order` go.
    """
    alike = search(new, before, progress)
    made, places = Split([False] * len(new), alike.near), defaultdict[Label, list[int]](list)
    for place, image in enumerate(new):
        places[image.label].append(place)
    spoken_for = {image.label for image in before if image.held_out}
    for label, own in places.items():
        wanted = left = int(share * len(own) + 1e-9)
        groups = defaultdict[int, list[int]](list)
        for place in own:
            groups[alike.group[place]].append(place)
        free: list[int] = []
        for group in sorted(groups.values(), key=lambda group: min(new[place].digest for place in group)):
            sides = {alike.side[place] for place in group if place in alike.side}
            out = sides == {True} and share > 0
            if not sides:
                free += group
                out = len(group) <= left
                left -= len(group) if out else 0
            for place in group if out else ():
                made.held[place] = True
        if wanted and label not in spoken_for and not any(made.held[place] for place in own):
            if len(free) > wanted and (known := order(sorted(free))):
                made.bursts[label] = known[1]
                for place in known[0][-wanted:]:
                    made.held[place] = True
            else:
                made.undivided.append(label)
    return made
