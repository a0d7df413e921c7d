"""The images a model has met: what is kept of each in the model file so that folders may grow.

An image leaves 21 bytes: digest, fingerprint (see `fingerprints`), class, and whether it was held out. They say
whether a given picture was there; they hold no picture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from continual.data.images import open_image
from continual.data.inputs import Label
from continual.errors import InputError
from continual.lifecycle.fingerprints import digest, fingerprint


@dataclass(frozen=True)
class Met:
    """What is kept of one image."""

    digest: int
    fingerprint: int
    label: Label
    held_out: bool = False


@dataclass(frozen=True)
class Ledger:
    """Every image of the model's classes that was learned or held out by the command, in that order."""

    images: tuple[Met, ...] = ()
    forgotten: tuple[Label, ...] = ()  #: classes that were removed: their folders are not learned again unasked

    @cached_property
    def by_digest(self) -> dict[int, Met]:
        """The images by their digests."""
        return {met.digest: met for met in self.images}

    def with_images(self, images: Iterable[Met]) -> Ledger:
        """Return the ledger with more images; of one that was there before, the new entry counts."""
        every = {**self.by_digest, **{met.digest: met for met in images}}
        known = {met.label for met in every.values()}
        return Ledger(tuple(every.values()), tuple(name for name in self.forgotten if name not in known))

    def renamed(self, old: Label, new: Label) -> Ledger:
        """Return the ledger in which a class has another name."""
        images = tuple(replace(met, label=new) if met.label == old else met for met in self.images)
        return Ledger(images, tuple(name for name in self.forgotten if name != new))

    def without(self, label: Label, *, remember: bool) -> Ledger:
        """Return the ledger without the images of a class; its name stays if that is to be remembered."""
        images = tuple(met for met in self.images if met.label != label)
        others = tuple(name for name in self.forgotten if name != label)
        return Ledger(images, (*others, label) if remember else others)

    def named(self, images: Collection[int]) -> set[Label]:
        """Return what a class is called here whose images have these digests: the classes most of whose are among them.

        >>> Ledger((Met(1, 0, "nut"), Met(2, 0, "nut"), Met(3, 0, "bolt"))).named({1, 2, 9})
        {'nut'}
        """
        every = Counter(met.label for met in self.images)
        own = Counter(met.label for met in self.images if met.digest in images)
        return {label for label, n in own.items() if 2 * n > every[label]}

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and JSON values for the model file."""
        classes = list(dict.fromkeys(met.label for met in self.images))
        index = {label: i for i, label in enumerate(classes)}
        tensors = {
            "digest": torch.tensor([met.digest for met in self.images], dtype=torch.int64),
            "fingerprint": torch.tensor([met.fingerprint for met in self.images], dtype=torch.int64),
            "class": torch.tensor([index[met.label] for met in self.images], dtype=torch.int32),
            "held_out": torch.tensor([met.held_out for met in self.images], dtype=torch.bool),
        }
        return tensors, {"classes": classes, "forgotten": list(self.forgotten)}

    @staticmethod
    def unpack(tensors: Mapping[str, Tensor], values: Mapping[str, Any] | None) -> Ledger:
        """Rebuild what `pack` took apart; an empty one of a file without. Raises KeyError, ValueError or IndexError."""
        if values is None:
            return Ledger()
        columns = [tensors[name].tolist() for name in ("digest", "fingerprint", "class", "held_out")]
        rows = zip(*columns, strict=True)
        return Ledger(
            tuple(Met(mark, print_, values["classes"][own], held) for mark, print_, own, held in rows),
            tuple(values["forgotten"]),
        )


def meet(path: Path, label: Label, ledger: Ledger) -> Met:
    """Return an image's entry: that of the ledger, if it is there; raises InputError if it cannot be read."""
    found = recall(path, ledger)
    if isinstance(found, Met):
        return found
    image = open_image(path)
    assert not isinstance(image, Tensor)
    return Met(found, fingerprint(image), label)


def recall(path: Path, ledger: Ledger) -> Met | int:
    """Return an image's entry if it was met, else its digest; raises InputError if it cannot be read."""
    try:
        mark = digest(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    return ledger.by_digest.get(mark, mark)
