"""The entry of an image file among the images that a model has seen."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from continual.data.images import EncodedImage, decoded
from continual.data.inputs import Label
from continual.errors import InputError
from continual.lifecycle.fingerprints import digest, fingerprint
from continual.lifecycle.seen_images import SeenImage, SeenImages


def unchanged(path: Path, mark: int) -> EncodedImage:
    """Return the image of a file that has this digest whenever it is read; then raises InputError if it has another."""
    return EncodedImage(str(path), partial(_read, path, mark))


def _read(path: Path, mark: int) -> bytes:
    content = path.read_bytes()
    if digest(content) != mark:
        raise InputError(f"{path} has changed since the plan was made: run the command again")
    return content


def lookup(path: Path, seen: SeenImages) -> SeenImage | int:
    """Return an image's entry if it was seen, else its digest; raises InputError if it cannot be read."""
    try:
        mark = digest(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    return seen.by_digest.get(mark, mark)


def entry(
    path: Path,
    label: Label,
    seen: SeenImages,
    channels: int = 3,
    value_range: str | None = None,
    shown: list[tuple[bool, int | None]] | None = None,
) -> SeenImage:
    """Return an image's entry, a new one of class `label` if it was not seen; raises InputError if it is no image.

    Whether a new image is transparent in part, and its brightest number of 16 bits, is added to `shown`.
    """
    found = lookup(path, seen)
    if isinstance(found, SeenImage):
        return found
    picture = decoded(unchanged(path, found), channels, value_range)
    if shown is not None:
        shown.append((picture.transparent, picture.brightest))
    return SeenImage(found, fingerprint(picture.image), label)
