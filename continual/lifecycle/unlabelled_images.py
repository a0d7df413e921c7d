"""What an experience is given beside labelled images: those without labels, and a stamp that is not to be followed."""

from __future__ import annotations

from pathlib import Path

from continual.data.images import EncodedImage, image_files
from continual.errors import InputError
from continual.learning.concept import Concept, check_pictures
from continual.lifecycle.entries import entry, unchanged
from continual.lifecycle.new_images import Plan
from continual.seeding import generator
from continual.symmetry.group_evidence import some_of_each

#: pairs that a stamp makes
MOST_PAIRS = 100


def without_labels(folder: Path, plan: Plan, channels: int = 3) -> tuple[list[EncodedImage], int]:
    """Return the images below a folder, at any depth, and how many are left out: those that a plan or model has labels
    of, and files that cannot be read. `channels` is how many the backbone takes.

    Raises InputError for a folder without images that are left.
    """
    labelled = {picture.entry.digest for picture in [*plan.learn, *plan.hold_out, *plan.held_out]}
    found: dict[int, EncodedImage] = {}
    files = image_files(folder, channels)
    for path in files:
        try:
            new = entry(path, "", plan.seen, channels=channels)
        except InputError:
            continue
        if new.digest not in labelled and new.digest not in plan.seen.by_digest:
            found.setdefault(new.digest, unchanged(path, new.digest))
    if not found:
        raise InputError(f"{folder} holds no images without labels: those that are learned or held out do not count")
    return [*found.values()], len(files) - len(found)


def stamped(plan: Plan, stamp: Path, channels: int = 3) -> Concept:
    """Return the concept of a stamp on images that are to be learned, at most MOST_PAIRS, drawn from all classes.

    Raises InputError for images of so many `channels` that they are no pictures.
    """
    check_pictures(channels)
    rows = some_of_each([p.entry.label for p in plan.learn], MOST_PAIRS, generator(0, "stamped"))
    return Concept.of([plan.learn[row].image for row in rows], stamp=stamp)
