"""The images a model has seen: what is kept of each in the model file so that folders may grow.

An image leaves 21 bytes: digest, fingerprint (see `continual.lifecycle.fingerprints`), class, and whether it was held
out. They say whether a given picture was there; they hold no picture. Importing this loads no torch.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import Tensor

    from continual.data.inputs import Label

#: what is kept of each image, one tensor each
COLUMNS = ("digest", "fingerprint", "class", "held_out")


@dataclass(frozen=True)
class SeenImage:
    """What is kept of one image."""

    digest: int
    fingerprint: int
    label: Label
    held_out: bool = False


@dataclass(frozen=True)
class SeenImages:
    """Every image of the model's classes that was learned or held out by the command, in that order."""

    images: tuple[SeenImage, ...] = ()
    forgotten: tuple[Label, ...] = ()  #: classes that were removed: their folders are not learned again unasked

    @cached_property
    def by_digest(self) -> dict[int, SeenImage]:
        """The images by their digests."""
        return {image.digest: image for image in self.images}

    def with_images(self, images: Iterable[SeenImage]) -> SeenImages:
        """Return them with more images; of one that was there before, the new entry counts."""
        every = {**self.by_digest, **{image.digest: image for image in images}}
        known = {image.label for image in every.values()}
        return SeenImages(tuple(every.values()), tuple(name for name in self.forgotten if name not in known))

    def without(self, label: Label, *, remember: bool) -> SeenImages:
        """Return them without the images of a class; its name stays if that is to be remembered."""
        images = tuple(image for image in self.images if image.label != label)
        others = tuple(name for name in self.forgotten if name != label)
        return SeenImages(images, (*others, label) if remember else others)

    def names_of(self, digests: Collection[int]) -> set[Label]:
        """Return what a class is called here whose images have these digests: the classes most of whose are among them.

        >>> SeenImages((SeenImage(1, 0, "nut"), SeenImage(2, 0, "nut"), SeenImage(3, 0, "bolt"))).names_of({1, 2, 9})
        {'nut'}
        """
        every = Counter(image.label for image in self.images)
        own = Counter(image.label for image in self.images if image.digest in digests)
        return {label for label, n in own.items() if 2 * n > every[label]}

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return tensors and JSON values for the model file."""
        import torch

        classes = list(dict.fromkeys(image.label for image in self.images))
        index = {label: i for i, label in enumerate(classes)}
        rows = [(image.digest, image.fingerprint, index[image.label], image.held_out) for image in self.images]
        kinds = (torch.int64, torch.int64, torch.int32, torch.bool)
        columns = zip(*rows, strict=True) if rows else [()] * len(COLUMNS)
        every = zip(COLUMNS, columns, kinds, strict=True)
        tensors = {name: torch.tensor(column, dtype=kind) for name, column, kind in every}
        return tensors, {"classes": classes, "forgotten": list(self.forgotten)}

    @staticmethod
    def unpack(columns: Mapping[str, Sequence[int]], values: Mapping[str, Any] | None) -> SeenImages:
        """Rebuild what `pack` took apart, from the tensors' values; none of a file without.

        Raises KeyError, ValueError or IndexError for a file that lacks a part.
        """
        if values is None:
            return SeenImages()
        rows = [*zip(*[columns[name] for name in COLUMNS], strict=True)]
        if any(not 0 <= own < len(values["classes"]) for _, _, own, _ in rows):
            raise ValueError("an image that was seen is of a class that there is not")
        return SeenImages(
            tuple(SeenImage(digest, print_, values["classes"][own], bool(out)) for digest, print_, own, out in rows),
            tuple(values["forgotten"]),
        )


def __getattr__(name: str) -> Any:
    if name == "Ledger":
        warnings.warn("Ledger is now called SeenImages", DeprecationWarning, stacklevel=2)
        return SeenImages
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
