"""A look at every image of a collection: can it be read, and is it there twice?"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from continual.console import count
from continual.data.arrays import as_array, needs_range, spread
from continual.data.images import EncodedImage, decoded, open_image
from continual.data.ranges import dark
from continual.datasets.collection import Collection, count_problems
from continual.errors import InputError
from continual.learning.extractor import Progress


@dataclass(frozen=True)
class Report:
    """What was found; plain JSON values. `errors` make a data set unfit, `remarks` do not."""

    name: str
    origin: str
    split: str
    classes: int
    train: int
    test: int
    domains: list[str]
    fewest: int  #: training images of the smallest class
    most: int
    list_sha256: str  #: of the list of images with labels and split
    content_sha256: str  #: of the images' bytes and that list
    errors: list[str]
    remarks: list[str]


def audit(found: Collection, progress: Progress | None = None, channels: int = 3) -> Report:
    """Open every image, of so many `channels`, once, and compare the contents by SHA-256.

    The same bytes in training and test are an error, save in a published data set, which is as it is. The same bytes
    twice in one part or under several labels, and a class with a single image, are remarks.
    """
    errors = count_problems(found)
    broken: list[str] = []
    remarks = [*found.remarks]
    places: dict[bytes, list[tuple[str, Any, str]]] = defaultdict(list)
    content = hashlib.sha256(found.fingerprint().encode())
    images, transparent, unsaid, depths = [*found.train.images, *found.test.images], 0, _Numbers(), list[int]()
    for done, (image, (split, _, label, name)) in enumerate(zip(images, found.rows(), strict=True), 1):
        try:
            digest = _digest(image)
            if isinstance(image, str | Path | EncodedImage):
                opened = decoded(image, channels)
                transparent += opened.transparent
                depths += [] if opened.brightest is None else [opened.brightest]
                unsaid.look(opened.image)
            elif as_array(image) is None or not needs_range(as_array(image)):
                open_image(image, done - 1, channels)
            else:
                unsaid.look(image)
        except (InputError, OSError, ValueError) as error:
            broken.append(str(error))
        else:
            places[digest].append((split, label, name))
            content.update(digest)
        if progress is not None:
            progress("checking images", done, len(images), {})
    errors += [f"{len(broken)} of {len(images)} images cannot be read", *broken] if broken else []
    if transparent:
        remarks.append(f"{count(transparent, 'image')} of {len(images)} transparent in part, which is seen as white")
    remarks += unsaid.words()
    remarks += [said] if (said := dark(depths)) else []
    repeated = [group for group in places.values() if len(group) > 1]
    leaks = [group for group in repeated if len({split for split, _, _ in group}) > 1]
    mixed = [group for group in repeated if len({label for _, label, _ in group}) > 1]
    if leaks:
        (remarks if found.published else errors).append(_such("both in training and in test", leaks))
    if mixed:
        remarks.append(_such("there under more than one label", mixed))
    if within := sum(max(Counter(split for split, _, _ in group).values()) > 1 for group in repeated):
        remarks.append(f"{within} images are there more than once in the same part")
    counts = Counter(found.train.labels)
    if single := sorted(str(label) for label, n in counts.items() if n == 1):
        remarks.append(f"{len(single)} classes have a single training image, such as {single[0]!r}")
    domains = sorted({*(found.train.domains or []), *(found.test.domains or [])})
    numbers = len(found.classes), len(found.train.labels), len(found.test.labels)
    spread, hashes = (min(counts.values()), max(counts.values())), (found.fingerprint(), content.hexdigest())
    return Report(found.name, found.origin, found.split, *numbers, domains, *spread, *hashes, errors, remarks)


@dataclass
class _Numbers:
    """The least and the largest number of images whose dtype does not say what they mean."""

    low: float = float("inf")
    high: float = -float("inf")
    kinds: set[str] = field(default_factory=set)

    def look(self, image: Any) -> None:
        """Take an image in; raises InputError for NaN and infinity."""
        if (array := as_array(image)) is not None and needs_range(array) and (found := spread(array)):
            self.low, self.high = min(self.low, found[0]), max(self.high, found[1])
            self.kinds.add(str(array.dtype).removeprefix("torch."))

    def words(self) -> list[str]:
        """Say what there is, and that somebody must say what it means."""
        kinds = " and ".join(sorted(self.kinds))
        lies = f"numbers are {kinds}, from {self.low:.6g} to {self.high:.6g}"
        return [f"{lies}: state what black and white are, as data.value_range or --value-range"] if self.kinds else []


def _such(where: str, groups: list[list[tuple[str, Any, str]]]) -> str:
    return f"{len(groups)} images are {where}, such as {' and '.join(name for _, _, name in groups[0][:2])}"


def _digest(image: Any) -> bytes:
    if isinstance(image, str | Path):
        data = Path(image).read_bytes()
    else:
        data = image.read() if isinstance(image, EncodedImage) else np.ascontiguousarray(image).tobytes()
    return hashlib.sha256(data).digest()
