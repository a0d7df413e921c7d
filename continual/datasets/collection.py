"""Labelled images with a split: what every source of data becomes."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from continual.data.inputs import Label
from continual.datasets.catalogue import Layout, published
from continual.errors import InputError


class Images(NamedTuple):
    """Images with their labels and, where the source has them, their domains and names."""

    images: Any  #: a list (paths, encoded images), an array or a tensor
    labels: list[Label]
    domains: list[str] | None = None
    names: list[str] | None = None  #: relative paths or row numbers, for lists and messages


@dataclass(frozen=True)
class Entry:
    """One image of a source that lists files."""

    image: Any  #: a path, or an encoded image
    name: str
    label: str
    split: str | None = None  #: train, val, test (see `continual.data.folders.PARTS`), or None: still to be drawn
    domain: str | None = None


@dataclass(frozen=True)
class Collection:
    """A data set with its split."""

    name: str
    train: Images
    test: Images
    origin: str  #: where and in which layout it was found
    split: str  #: where the split is from
    published: Layout | None = None  #: the counts it must have
    folder: Path | None = None  #: where a record of its split belongs
    remarks: tuple[str, ...] = ()  #: what its user should know

    @property
    def classes(self) -> list[Label]:
        """All classes, sorted."""
        return sorted({*self.train.labels, *self.test.labels})

    def fingerprint(self) -> str:
        """Return the SHA-256 of the list of (split, domain, label, name), in sorted order."""
        lines = sorted("\t".join(map(str, row)) for row in self.rows())
        return hashlib.sha256("".join(f"{line}\n" for line in lines).encode()).hexdigest()

    def rows(self) -> Iterable[tuple[str, str, Label, str]]:
        """Yield (split, domain or "", label, name) for every image."""
        for split, part in (("train", self.train), ("test", self.test)):
            names = part.names or [str(i) for i in range(len(part.labels))]
            domains = part.domains or [""] * len(names)
            yield from ((split, *row) for row in zip(domains, part.labels, names, strict=True))


def check_classes(found: Collection) -> None:
    """Raise InputError unless both parts hold the same classes, at least one."""
    train, test = set(found.train.labels), set(found.test.labels)
    if not train or not test:
        raise InputError(f"{found.origin}: no {'test' if train else 'training'} images")
    if wrong := sorted(train ^ test, key=str):
        shown = ", ".join(f"{label!r} ({'training' if label in train else 'test'} only)" for label in wrong[:5])
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise InputError(f"{found.origin}: every class needs training and test images; {shown}{more}")


def draw_test(entries: Sequence[Entry], share: float, seed: int) -> set[int]:
    """Return which entries are for testing: `share` of every class of every domain.

    The choice depends on the seed and the names alone: in each class the images with the smallest SHA-256 of
    "seed/name" are drawn. Where shares are not whole numbers, the largest remainders are rounded up so that the total
    is right, and every class keeps an image in both parts. Raises InputError for a class with one image.
    """
    groups: dict[tuple[str, str], list[int]] = defaultdict(list)
    for i, entry in enumerate(entries):
        groups[entry.domain or "", entry.label].append(i)
    if single := sorted(label for (_, label), rows in groups.items() if len(rows) == 1):
        raise InputError(
            f"{len(single)} classes have a single image, which cannot be split into training and test: "
            f"{', '.join(map(repr, single[:5]))}; add images, or give a split"
        )
    wanted = {key: share * len(rows) for key, rows in groups.items()}
    count = Counter({key: int(value) for key, value in wanted.items()})
    missing = round(sum(wanted.values())) - count.total()
    for key in sorted(wanted, key=lambda key: (count[key] - wanted[key], key))[:missing]:
        count[key] += 1
    drawn: set[int] = set()
    for key, rows in groups.items():
        ranked = sorted(rows, key=lambda i: hashlib.sha256(f"{seed}/{entries[i].name}".encode()).digest())
        drawn.update(ranked[: min(max(count[key], 1), len(rows) - 1)])
    return drawn


def count_problems(found: Collection) -> list[str]:
    """Name each count that differs from the published one, if any is published."""
    if found.published is None:
        return []
    counts = [
        ("classes", len(found.classes), published(found.name).classes),
        ("training images", len(found.train.labels), found.published.train),
        ("test images", len(found.test.labels), found.published.test),
    ]
    return [f"{got} {what}, published {wanted}" for what, got, wanted in counts if got != wanted]
