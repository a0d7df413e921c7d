"""Image files that were opened before and found readable, so that a run need not open all of them again.

A file is known by its path, number, size and times of its last change, of content and of rights, to the nanosecond:
one that was changed, replaced or moved is opened again. So is one that was changed a moment before it was checked, as
another change may have had the same time. Nothing is remembered of files that cannot be read.

    FOLDER/NAME.checked    digests, 16 bytes each, of the readable files of one folder

Files are written whole or not at all, and may be removed at any time.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib.util import find_spec
from pathlib import Path

import PIL

import continual
from continual import files
from continual.errors import EquimosError

SUFFIX = ".checked"
#: nanoseconds that the last change of a file must lie back for it to be remembered: some file systems count in seconds
SETTLED = 2_000_000_000
#: files of digests that are kept, one for each folder of images: the longest unused are removed
MOST_FOLDERS = 20_000
#: digests of one folder
MOST_FILES = 2**18
_SIZE = 16  #: bytes of a digest

#: what decides which files can be read, besides what they hold
_READERS = PIL.__version__, continual.__version__, [find_spec(name) is not None for name in ("pillow_heif", "tifffile")]

_current: ContextVar[CheckedFiles | None] = ContextVar("checked", default=None)


class CheckedFiles:
    """What is remembered in a folder; one that cannot be read or written remembers nothing."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._known: dict[Path, set[bytes]] = {}  #: by folders of images
        self._new: dict[Path, list[bytes]] = {}

    def knows(self, path: str | Path, channels: int) -> bool:
        """Tell whether a file, as it is now, was readable for so many channels."""
        place = Path(path).absolute()
        if place.parent not in self._known:
            self._known[place.parent] = self._read(place.parent)
        return self._digest(place, channels)[0] in self._known[place.parent]

    @contextmanager
    def unchanged(self, path: str | Path, channels: int) -> Iterator[None]:
        """Remember a file that the block reads, unless it raises, or the file is changed at that time."""
        place = Path(path).absolute()
        before = self._digest(place, channels)
        yield
        if before == self._digest(place, channels) and before[1]:
            self._new.setdefault(place.parent, []).append(before[0])

    @staticmethod
    def _digest(place: Path, channels: int) -> tuple[bytes, bool]:
        """Return what stands for a file as it is, and whether its last change lies far enough back."""
        try:
            about = place.stat()
        except OSError:
            return b"", False
        found = f"{place}\0{about.st_dev}\0{about.st_ino}\0{about.st_size}\0{about.st_mtime_ns}\0{about.st_ctime_ns}"
        digest = hashlib.blake2b(os.fsencode(f"{found}\0{channels}\0{_READERS}"), digest_size=_SIZE).digest()
        return digest, max(about.st_mtime_ns, about.st_ctime_ns) + SETTLED < time.time_ns()

    def save(self) -> None:
        """Write what is new."""
        with suppress(OSError, EquimosError):
            if self._new:
                self.folder.mkdir(parents=True, exist_ok=True)
            for parent, new in self._new.items():
                every = [*dict.fromkeys([*self._read(parent), *new])][-MOST_FILES:]
                self._known[parent] = set(every)
                with files.written(self._place(parent)) as path:
                    path.write_bytes(b"".join(every))
            kept = sorted(self.folder.glob(f"*{SUFFIX}"), key=lambda path: path.stat().st_mtime)
            for path in kept[: max(0, len(kept) - MOST_FOLDERS)]:
                path.unlink(missing_ok=True)
        self._new = {}

    def clear(self) -> int:
        """Remove it all; return how many bytes it took."""
        taken = 0
        for path in self.folder.glob(f"*{SUFFIX}"):
            with suppress(FileNotFoundError):
                taken += path.stat().st_size
                path.unlink()
        with suppress(OSError):  # it is not there, or somebody else has a file there
            self.folder.rmdir()
        return taken

    def _place(self, parent: Path) -> Path:
        return self.folder / f"{hashlib.blake2b(os.fsencode(parent), digest_size=_SIZE).hexdigest()}{SUFFIX}"

    def _read(self, parent: Path) -> set[bytes]:
        try:
            content = self._place(parent).read_bytes()
        except OSError:
            return set()
        return {content[start : start + _SIZE] for start in range(0, len(content) - _SIZE + 1, _SIZE)}


@contextmanager
def remembered(folder: Path | None) -> Iterator[None]:
    """Have `check_readable` pass over files in the block that were readable before, by what the folder holds."""
    token = _current.set(None if folder is None else CheckedFiles(folder))
    try:
        yield
    finally:
        _current.reset(token)


def current() -> CheckedFiles | None:
    """Return what remembers; None outside a block of `remembered`."""
    return _current.get()
