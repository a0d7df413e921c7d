"""Images that people have named: one folder per class, as `equimos learn` reads it, of limited number and size."""

from __future__ import annotations

import io
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from continual import files
from continual.data.file_kinds import SUFFIXES, kind_of
from continual.data.folders import ignored, same_name
from continual.data.inputs import Label
from continual.errors import InputError
from continual.learning.header import check_labels
from continual.lifecycle.fingerprints import digest
from continual.serving.uploads import RefusedError

#: the longest name of a class that a folder is made for, in bytes: file systems take 255
LONGEST = 200
#: of a class that is a number, which has 64 bits in a model file
MOST_DIGITS = 19
#: the folder in it of images that were discarded, by class as well; hidden, so that nothing learns them
DISCARDED = ".discarded"
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
        place, elsewhere = self._place(data, label), self.elsewhere(data, label)
        if not place.exists() and elsewhere:  # it was named otherwise before
            with suppress(OSError):  # a folder may lie on another disk
                place.parent.mkdir(parents=True, exist_ok=True)
                elsewhere[0].replace(place)
        if not place.exists():
            there = [path.stat().st_size for path in (*(path for path, _ in self), *self._discarded("*"))]
            if len(there) >= self.most_images or sum(there) + len(data) > self.most_bytes:
                raise RefusedError(
                    507,
                    f"{len(there)} images are collected already, and no more are taken: learn them, and move them, or "
                    f"empty {self.said}",
                )
            try:
                place.parent.mkdir(parents=True, exist_ok=True)
                with files.written(place, InputError) as temporary:
                    temporary.write_bytes(data)
            except (InputError, OSError) as error:
                raise RefusedError(507, f"the image cannot be stored ({type(error).__name__})") from error
        for path in elsewhere:
            _removed(path)
        return place

    def elsewhere(self, data: bytes, label: Label) -> list[Path]:
        """Return where the bytes of an image are stored under other classes, or were discarded."""
        place = self._place(data, label)
        found = (*self.folder.glob(f"[!.]*/{place.name}"), *self._discarded(place.name))
        return [path for path in found if path != place and self._own(path)]

    @property
    def discarded(self) -> Path:
        """Where discarded images are."""
        return self.folder / DISCARDED

    @property
    def said(self) -> str:
        """The same for people elsewhere, who need not know where the folder lies."""
        return str(Path(self.folder.name, DISCARDED))

    def _discarded(self, name: str) -> Iterator[Path]:
        return self.discarded.glob(f"*/{name}")

    def discard(self, path: Path) -> bool:
        """Move an image to those that were discarded, if it was stored here; return whether it was.

        It may be the only copy. Raises RefusedError where it cannot be moved.
        """
        if not self._own(path):
            return False
        place = self.discarded / path.parent.name / path.name
        try:
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, place)
        except OSError as error:
            raise RefusedError(507, f"the image cannot be moved ({type(error).__name__})") from error
        _removed(path)  # of which the folder is left
        return True

    def _place(self, data: bytes, label: Label) -> Path:
        return self.folder / str(label) / f"{_name(data)}{_ending(data)}"

    def _own(self, path: Path) -> bool:
        """Tell whether a file has the name that was given to it here, and holds what it held then."""
        try:
            return path.stem == _name(path.read_bytes())
        except OSError:
            return False

    def __iter__(self) -> Iterator[tuple[Path, str]]:
        """Give every image with the name of its class, in the order of names."""
        for place in sorted(self.folder.iterdir()) if self.folder.is_dir() else []:
            if place.is_dir() and not place.name.startswith("."):
                yield from ((path, place.name) for path in sorted(place.iterdir()) if path.name[0] != ".")


def class_named(text: str, known: Sequence[Label], folders: Iterable[str] = ()) -> Label:
    """Return the class that a person has named, a new one as well; raises RefusedError for a name that will not do.

    It is to be the name of a folder, a known one too, for a model file may be a stranger's; and of a class in a model
    file. A new one is not to be taken for a known one, or for one of the `folders` that images are collected in.
    """
    text = text.strip()
    found = next((label for label in known if str(label) == text), None)
    label = _new(text, known) if found is None else found
    odd = set('/\\:*?"<>|') & set(text) or text.endswith(".") or ignored(text)
    if odd or len(text.encode(errors="replace")) > LONGEST:
        cure = "use letters, digits, spaces, - and _" if found is None else "give the class another by `equimos rename`"
        raise RefusedError(422, f"{text[:100]!r} cannot be the name of a folder: {cure}, up to {LONGEST} bytes")
    try:
        check_labels([label])
    except InputError as error:
        raise RefusedError(422, str(error)) from None
    if found is None:
        for name in (*map(str, known), *folders):
            if name != text and same_name(name) == same_name(text):
                raise RefusedError(422, f"there is a class {name!r}: choose it from the list, or give another name")
    return label


def _new(text: str, known: Sequence[Label]) -> Label:
    """Return a new class of a name: a number, where those of the model are."""
    if not known or isinstance(known[0], str):
        return text
    if not text.isdecimal():
        raise RefusedError(422, f"the classes of this model are numbers, and {text[:100]!r} is none")
    if len(text) > MOST_DIGITS:
        raise RefusedError(
            422, f"a class has at most {MOST_DIGITS} digits, and not {len(text)}: give it another number"
        )
    return int(text)


def _name(data: bytes) -> str:
    return f"{digest(data) & (2**64 - 1):016x}"


def _removed(path: Path) -> None:
    """Delete a file, and the folder that it leaves empty."""
    path.unlink(missing_ok=True)
    with suppress(OSError):  # it is not empty
        path.parent.rmdir()


def _ending(data: bytes) -> str:
    if data.startswith(b"\x93NUMPY"):
        return ".npy"
    return _ENDINGS.get(kind_of(io.BytesIO(data)) or "", ".tga")  # a TGA without a footer is known by its name alone
