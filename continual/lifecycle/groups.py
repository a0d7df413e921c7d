"""Which images are nearly the same as others, in groups that hang together: one search among fingerprints."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from continual.learning.extractor import Progress
from continual.lifecycle.fingerprints import NEAR, compare
from continual.lifecycle.seen_images import SeenImage

#: examples of near-duplicates that are kept to be shown
EXAMPLES = 5


@dataclass
class NearDuplicates:
    """Pairs of near-duplicates: how many, and the first of them."""

    number: int = 0
    examples: list[tuple[int, int | str]] = field(default_factory=list)  #: a new one's place; another's, or in words


@dataclass(frozen=True)
class Alike:
    """What a search has found of some new images, by their places."""

    group: list[int]  #: the same number for images of a class that are nearly the same, or hang together so
    side: dict[int, bool]  #: of those near some of their class that were seen before: whether all such were held out
    near: NearDuplicates


class _Unions:
    """Sets that are joined: union-find, for many pairs at a time."""

    def __init__(self, count: int) -> None:
        self.parent = np.arange(count)

    def join(self, a: NDArray[np.int64], b: NDArray[np.int64]) -> None:
        """Let the sets of a[i] and b[i] be one: of two roots the larger hangs on the smaller, until all are joined."""
        while len(a):
            a, b = self.roots(a), self.roots(b)
            a, b = a[a != b], b[a != b]
            np.minimum.at(self.parent, np.maximum(a, b), np.minimum(a, b))

    def roots(self, of: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the number of each one's set: its smallest member."""
        found = self.parent[of]
        while not np.array_equal(found, further := self.parent[found]):
            found = further
        self.parent[of] = found
        return found


def search(new: Sequence[SeenImage], before: Sequence[SeenImage], progress: Progress | None = None) -> Alike:
    """Find the near-duplicates among new images, and between them and those seen before.

    Identical fingerprints of a class are compared once: pictures of one burst have few different ones.
    """
    fresh, place_of = _distinct([(image.fingerprint, image.label) for image in new])
    old, old_of = _distinct([(image.fingerprint, image.label, image.held_out) for image in before])
    label, weight = _numbers([key[1] for key in fresh], [key[1] for key in old]), np.bincount(place_of, minlength=1)
    own, others = label[: len(fresh)], label[len(fresh) :]
    sets, doubled, number = _Unions(len(fresh)), weight[: len(fresh)] > 1, int((weight * (weight - 1) // 2).sum())
    for part in compare([key[0] for key in fresh]):
        number += int((weight[part.mine] * weight[part.others]).sum())
        doubled[part.mine] = doubled[part.others] = True
        same = own[part.mine] == own[part.others]
        sets.join(part.mine[same], part.others[same])
        _tell(progress, part.done, part.total)
    held, old_weight = np.array([key[2] for key in old], dtype=bool), np.bincount(old_of, minlength=1)
    met, beside, learned = (np.zeros(len(fresh), dtype=bool) for _ in range(3))
    for part in compare([key[0] for key in fresh], [key[0] for key in old]):
        number += int((weight[part.mine] * old_weight[part.others]).sum())
        met[part.mine] = True
        same = own[part.mine] == others[part.others]
        beside[part.mine[same]] = True
        learned[part.mine[same & ~held[part.others]]] = True
        _tell(progress, part.done, part.total)
    group = sets.roots(np.arange(len(fresh)))[place_of].tolist()
    side = {place: not learned[node] for place, node in enumerate(place_of) if beside[node]}
    examples = _examples(new, before, doubled[place_of], met[place_of])
    return Alike(group, side, NearDuplicates(number, examples))


def _distinct(keys: Sequence[tuple[object, ...]]) -> tuple[list[tuple[int, str, bool]], NDArray[np.int64]]:
    """Return the different keys in order of appearance, and which of them each one is."""
    index: dict[object, int] = {}
    places = np.array([index.setdefault(key, len(index)) for key in keys], dtype=np.int64)
    return list(index), places  # type: ignore[arg-type]


def _numbers(*labels: Sequence[object]) -> NDArray[np.int64]:
    index: dict[object, int] = {}
    return np.array([index.setdefault(label, len(index)) for part in labels for label in part], dtype=np.int64)


def _examples(
    new: Sequence[SeenImage], before: Sequence[SeenImage], doubled: NDArray[np.bool_], met: NDArray[np.bool_]
) -> list[tuple[int, int | str]]:
    """Return the first pairs, in the order of the images: among the new ones, then with one that was seen before."""
    found: list[tuple[int, int | str]] = []
    prints, earlier = (np.array([image.fingerprint for image in some], dtype=np.int64) for some in (new, before))
    for some, wanted in ((prints, doubled), (earlier, met)):
        for place in np.flatnonzero(wanted).tolist():
            if len(found) >= EXAMPLES:
                return found[:EXAMPLES]
            start = place + 1 if some is prints else 0
            near = (start + other for other in _near(prints[place], some[start:]))
            found += [(place, k if some is prints else f"one of {before[k].label} seen before") for k in near]
    return found[:EXAMPLES]


def _near(one: np.int64, others: NDArray[np.int64]) -> list[int]:
    apart = np.bitwise_xor(others, one).view(np.uint8).reshape(-1, 8)
    return np.flatnonzero(np.unpackbits(apart, axis=1).sum(1) <= NEAR).tolist()


def _tell(progress: Progress | None, done: int, total: int) -> None:
    if progress is not None:
        progress("comparing images", done, total, {})
