"""Two short numbers by which an image is known again without being kept: exactly, and nearly.

The digest is of the file's bytes: it stays the same for years, whatever decodes the file. The fingerprint is a
difference hash, the signs of 64 differences of brightness between neighbouring ninths of the picture: it survives
scaling, compression and mild edits, and no picture can be made of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from hashlib import blake2b
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

#: most bits in which the fingerprints of near-duplicates differ; of 4.5 million pairs of Tiny-ImageNet none is as near
NEAR = 4

#: pairs that are compared at a time
CHUNK = 2**18

_ONES = np.array([value.bit_count() for value in range(2**16)], dtype=np.uint8)
_BITS = np.left_shift(np.uint64(1), np.arange(64, dtype=np.uint64))


def digest(content: bytes) -> int:
    """Return 64 bits of a file's content, as a signed number."""
    return int.from_bytes(blake2b(content, digest_size=8).digest(), "little", signed=True)


def fingerprint(image: Image.Image | NDArray[Any]) -> int:
    """Return the difference hash of an image, as a signed number of 64 bits; of an array (H, W, C), of its mean.

    >>> left = Image.linear_gradient("L").rotate(90)
    >>> fingerprint(left) == fingerprint(left.resize((100, 50))) == -1
    True
    """
    image = image if isinstance(image, Image.Image) else _mean(image)
    grey = np.asarray(image.convert("L").resize((9, 8), Image.Resampling.BOX), dtype=np.int16)
    signs = np.packbits(grey[:, 1:] > grey[:, :-1])
    return int.from_bytes(signs.tobytes(), "little", signed=True)


def _mean(values: NDArray[Any]) -> Image.Image:
    """Return the mean over channels (H, W, C) as a picture from black, the least number that is one, to white."""
    mean = np.nan_to_num(values.mean(axis=-1, dtype=np.float64), posinf=0, neginf=0)
    span = mean.max() - mean.min()
    return Image.fromarray(((mean - mean.min()) * (255 / span if span else 0)).astype(np.uint8))


class Compared(NamedTuple):
    """Some pairs of near fingerprints, and how far the search is."""

    mine: NDArray[np.int64]  #: places
    others: NDArray[np.int64]  #: places
    done: int  #: pairs compared so far,
    total: int  #: of so many


def near(mine: Sequence[int], others: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Yield the places (in `mine`, in `others`) of all fingerprints that differ in at most NEAR bits, in order.

    >>> list(near([0, 1], [-1, 3]))
    [(0, 1), (1, 1)]
    """
    found = [part for part in compare(mine, others)]
    places = np.array([(), ()], dtype=np.int64) if not found else np.concatenate([part[:2] for part in found], axis=1)
    yield from sorted(zip(*places.tolist(), strict=True))


def compare(mine: Sequence[int], others: Sequence[int] | None = None) -> Iterator[Compared]:
    """Yield all pairs that differ in at most NEAR bits, each once, some at a time; of `mine` alone, a < b, if asked so.

    The 64 bits are divided into NEAR + 1 bands. Of two fingerprints that differ in NEAR bits or fewer, at least one
    band is equal, so that only those with a band in common have to be compared; a pair counts in the first such band.
    Any dealing gives the same pairs. This one gives each band its share of the bits that tell most: pictures of parts
    on a white ground have whole rows of zeros in common, and a band of such a row would compare all with all.
    """
    left = _unsigned(mine)
    right = left if others is None else _unsigned(others)
    if not (len(left) and len(right)):
        return
    bands = _bands(left, right)
    plans = [_runs(left & band, right & band, others is None) for band in bands]
    total = sum(plan.pairs for plan in plans)
    done = 0
    for number, plan in enumerate(plans):
        for rows, columns in plan.chunks():
            done += len(rows)
            apart = left[rows] ^ right[columns]
            found = np.flatnonzero(_ones(apart) <= NEAR)
            for earlier in bands[:number]:
                found = found[(apart[found] & earlier) != 0]
            yield Compared(rows[found], columns[found], done, total)


def _bands(left: NDArray[np.uint64], right: NDArray[np.uint64]) -> list[np.uint64]:
    """Deal the bits out, those that are set most evenly first; return a mask per band."""
    every = np.concatenate([left, right])
    uneven = [abs(np.count_nonzero(every & bit) / len(every) - 0.5) for bit in _BITS]
    order = np.argsort(uneven, kind="stable")
    return [np.bitwise_or.reduce(_BITS[order[start :: NEAR + 1]]) for start in range(NEAR + 1)]


class _Plan(NamedTuple):
    """Which pairs share a band: of rows in the order `rows`, each with `counts` columns of `columns` from `first`."""

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    first: NDArray[np.int64]
    counts: NDArray[np.int64]

    @property
    def pairs(self) -> int:
        return int(self.counts.sum())

    def chunks(self) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield the places of all pairs, those of some rows at a time: about CHUNK pairs, or of one row."""
        ends = np.cumsum(self.counts)
        cuts = np.searchsorted(ends, np.arange(CHUNK, self.pairs, CHUNK)) + 1
        for start, end in pairwise([0, *np.unique(cuts[cuts < len(ends)]).tolist(), len(ends)]):
            counts = self.counts[start:end]
            if start < end:
                begins = ends[start:end] - counts
                numbers = np.arange(begins[0], ends[end - 1])
                columns = np.repeat(self.first[start:end] - begins, counts) + numbers
                yield np.repeat(self.rows[start:end], counts), self.columns[columns]


def _runs(left: NDArray[np.uint64], right: NDArray[np.uint64], alone: bool) -> _Plan:
    """Find where the values of `left` lie in `right`; `alone`, where they are the same, only later places count."""
    columns = np.argsort(right, kind="stable")
    ordered = right[columns]
    rows = columns if alone else np.arange(len(left))
    # Of equal values in `right` places ascend, so that those after a row's own are its later places.
    first = np.arange(1, len(rows) + 1) if alone else np.searchsorted(ordered, left, side="left")
    counts = np.searchsorted(ordered, left[rows], side="right") - first
    used = counts > 0
    return _Plan(rows[used], columns, first[used], counts[used])


def _ones(values: NDArray[np.uint64]) -> NDArray[np.uint8]:
    """Count the bits that are set."""
    if hasattr(np, "bitwise_count"):  # from numpy 2 on
        return np.bitwise_count(values)
    return _ONES[values.view(np.uint16).reshape(-1, 4)].sum(1, dtype=np.uint8)


def _unsigned(fingerprints: Sequence[int]) -> NDArray[np.uint64]:
    return np.array(fingerprints, dtype=np.int64).view(np.uint64)
