"""Images that people have named: one folder per class, as `equimos learn` reads it, of limited number and size."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from continual import files
from continual.data.file_kinds import SUFFIXES, kind_of
from continual.data.folders import LITTER, alike
from continual.data.inputs import Label
from continual.errors import InputError
from continual.learning.header import check_labels
from continual.lifecycle.fingerprints import digest
from continual.serving.uploads import RefusedError

#: the longest name of a class that a folder is made for, in bytes: file systems take 255
LONGEST = 200
_ENDINGS = {kind: suffix for suffix, kind in reversed(SUFFIXES.items())}


@dataclass(frozen=True)
class Collected:
    """A folder of class folders whose files are named by the digests of what they hold."""

    folder: Path
    most_images: int = 10_000
    most_bytes: int = 2 * 2**30

    def keep(self, data: bytes, label: Label) -> Path:
        """Store the bytes of an image under a class, and under no other; the same bytes are stored once.

        Raises RefusedError where the folder is full, or cannot be written.
        """
        name = f"{digest(data) & (2**64 - 1):016x}"
        place = self.folder / str(label) / f"{name}{_ending(data)}"
        elsewhere = [path for path in self.folder.glob(f"*/{name}.*") if path != place]
        if not place.exists():
            there = [path.stat().st_size for path, _ in self]
            if len(there) >= self.most_images or sum(there) + len(data) > self.most_bytes:
                raise RefusedError(
                    507, f"{len(there)} images are collected already, and no more are taken: learn them, and move them"
                )
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                with files.written(place, InputError) as temporary:
                    temporary.write_bytes(data)
            except (InputError, OSError) as error:
                raise RefusedError(507, f"the image cannot be stored ({type(error).__name__})") from error
        for path in elsewhere:  # it was named otherwise before
            path.unlink(missing_ok=True)
        return place

    def __iter__(self) -> Iterator[tuple[Path, str]]:
        """Give every image with the name of its class, in the order of names."""
        for place in sorted(self.folder.iterdir()) if self.folder.is_dir() else []:
            if place.is_dir() and not place.name.startswith("."):
                yield from ((path, place.name) for path in sorted(place.iterdir()) if path.name[0] != ".")


def class_named(text: str, known: Sequence[Label]) -> Label:
    """Return the class that a person has named, a new one as well; raises RefusedError for a name that will not do.

    It is to be the name of a folder, and of a class in a model file.
    """
    text = text.strip()
    if found := next((label for label in known if str(label) == text), None):
        return found
    if known and isinstance(known[0], int):
        if not text.isdecimal():
            raise RefusedError(422, f"the classes of this model are numbers, and {text[:100]!r} is none")
        return int(text)
    odd = set('/\\:*?"<>|') & set(text) or text.startswith(".") or text.endswith(".") or text.lower() in LITTER
    if odd or len(text.encode(errors="replace")) > LONGEST:
        raise RefusedError(
            422, f"{text[:100]!r} cannot be the name of a folder: use letters, digits, spaces, - and _, up to {LONGEST}"
        )
    try:
        check_labels([text])
    except InputError as error:
        raise RefusedError(422, str(error)) from None
    if wrong := alike([*map(str, known), text]):
        raise RefusedError(422, wrong[0])
    return text


def _ending(data: bytes) -> str:
    if data.startswith(b"\x93NUMPY"):
        return ".npy"
    return _ENDINGS.get(kind_of(io.BytesIO(data)) or "", ".tga")  # a TGA without a footer is known by its name alone
