"""An image file looked up among those a model has seen."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from continual.data.images import open_image
from continual.data.inputs import Label
from continual.errors import InputError
from continual.lifecycle.fingerprints import digest, fingerprint
from continual.lifecycle.seen_images import SeenImage, SeenImages


def lookup(path: Path, seen: SeenImages) -> SeenImage | int:
    """Return an image's entry if it was seen, else its digest; raises InputError if it cannot be read."""
    try:
        mark = digest(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror})") from error
    return seen.by_digest.get(mark, mark)


def entry(path: Path, label: Label, seen: SeenImages) -> SeenImage:
    """Return an image's entry, a new one of class `label` if it was not seen; raises InputError if it is no image."""
    found = lookup(path, seen)
    if isinstance(found, SeenImage):
        return found
    image = open_image(path)
    assert not isinstance(image, Tensor)
    return SeenImage(found, fingerprint(image), label)
