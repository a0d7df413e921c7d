"""One experience in bounded memory: its features are read in blocks, and a sample of them is held.

What is summed (products, means, covariances) takes every image, block by block, and keeps none. What needs features
again once the sums are known (leave-one-out estimates, the choice of a penalty) takes the images that are held. An
experience that fits into one block is one block, and held whole: so it has the same bits as if nothing were streamed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain
from typing import NamedTuple

import torch
from torch import Tensor

#: numbers of features in a block, and of those that are held: 64 MiB in float32, and a few times as much in double
FEATURES = 2**24
#: numbers of values, images times classes, that leave-one-out estimates make of what is held
VALUES = 2**22
#: images that are held at least, if there are as many, whatever they take
LEAST = 512

#: columns (m, D), and class indices (m,), of a block of rows
Block = tuple[list[Tensor], Tensor]


class Held(NamedTuple):
    """Images of an experience whose features are held: all, or a sample without replacement, in the order read."""

    columns: list[Tensor]  #: (m, D) each
    labels: Tensor  #: (m,), class indices
    stands_for: float  #: how many images of the experience each of them stands for; 1 if all are held


class Reading(NamedTuple):
    """What there is to read. The `copies` rows of an image follow each other."""

    batches: Callable[[Sequence[int] | None], Iterator[Block]]  #: of rows in this order, or as they are
    labels: Tensor  #: (n,), class indices
    copies: int
    classes: int


def streamed(
    reading: Reading,
    fold: Callable[[list[Tensor], Tensor], list[Tensor]],
    draw: torch.Generator,
    *,
    width: int = 0,
    by_class: bool = False,
) -> Held:
    """Give each block to `fold(columns, labels)`, which returns the columns to be held, and return what is held.

    A row counts for `width` numbers, if `fold` makes it wider than what is read. With `by_class` images are read class
    by class where they take several blocks, and a class lies in one if it fits. `draw` (of the CPU) chooses the sample.
    """
    labels, copies = reading.labels, reading.copies
    images = len(labels) // copies
    feed = reading.batches(None)
    first = next(feed)
    row = copies * max(width, sum(column[0].numel() for column in first[0] if column.is_floating_point()))
    block = max(LEAST, FEATURES // row)
    most = min(block, max(LEAST, VALUES // reading.classes))
    ends, order = [*range(block * copies, len(labels), block * copies), len(labels)], None
    if by_class and len(ends) > 1:
        order = labels.argsort(stable=True)
        ends = _class_ends(labels[order], block * copies)
        feed = reading.batches(order.tolist())
    else:
        feed = chain([first], feed)
    chosen = torch.ones(len(labels), dtype=torch.bool)
    if images > most:
        chosen[:] = False
        chosen.view(-1, copies)[torch.randperm(images, generator=draw)[:most]] = True
    chosen, held, start = chosen if order is None else chosen[order], [], 0
    for columns, own in _blocks(feed, ends):
        columns, stop = fold(columns, own), start + len(own)
        if images > most:
            rows = chosen[start:stop].to(own.device)
            columns, own = [column[rows] for column in columns], own[rows]
        held.append((columns, own))
        start = stop
    return Held(*(_joined(held) if len(held) > 1 else held[0]), max(1.0, images / most))


def _class_ends(labels: Tensor, block: int) -> list[int]:
    """Return where blocks of at most so many rows end, of ascending class indices; only a larger class is cut."""
    ends, begin, stop = [], 0, 0
    for size in labels.unique_consecutive(return_counts=True)[1].tolist():
        if stop + size - begin > block and stop > begin:
            ends.append(stop)
            begin = stop
        stop += size
        while stop - begin > block:
            begin += block
            ends.append(begin)
    return [*ends, *([stop] if stop > begin else [])]


def _blocks(feed: Iterable[Block], ends: Sequence[int]) -> Iterator[Block]:
    """Cut batches, and join them, so that blocks end at the rows `ends`."""
    parts: list[Block] = []
    start, upcoming = 0, iter(ends)
    end = next(upcoming)
    for columns, labels in feed:
        while start + len(labels) >= end:
            cut = end - start
            yield _joined([*parts, ([column[:cut] for column in columns], labels[:cut])])
            parts, columns, labels = [], [column[cut:] for column in columns], labels[cut:]
            start, end = end, next(upcoming, end + len(labels) + 1)
        parts.append((columns, labels))
        start += len(labels)


def _joined(parts: Sequence[Block]) -> Block:
    columns, labels = zip(*parts, strict=True)
    return [torch.cat(column) for column in zip(*columns, strict=True)], torch.cat(labels)
