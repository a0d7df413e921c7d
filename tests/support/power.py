"""Power cuts without a machine that is switched off: what a disk may hold at every step of a writer.

A file system promises to hold the content of a file once that was synced, and the names in a folder once the folder was
synced. Until then it may hold the old, the new, or, of content, nothing at all, and of several names some. `PowerCuts`
watches a writer's calls below a folder, and gives, for each moment, such states of the disk as folders to look at.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path
from typing import Any

import pytest

Names = dict[str, int]  #: the file or folder that a name leads to, by its number


@dataclass
class Moment:
    """What is on the disk for sure, and what is asked for, before a step."""

    step: str
    synced: dict[int, Names]
    asked: dict[int, Names]
    contents: dict[int, bytes]  #: of files, as asked for
    safe: dict[int, bytes]  #: of files, as synced


@dataclass
class PowerCuts:
    """Watches the calls below a folder between `watching` and its end; files are there when that begins."""

    folder: Path
    moments: list[Moment] = field(default_factory=list)
    _synced: dict[int, Names] = field(default_factory=dict)
    _safe: dict[int, bytes] = field(default_factory=dict)
    _open: list[int] = field(default_factory=list)  #: every inode seen is kept open, so that no number is used again

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch what this process does: syncs, and whatever changes names."""
        asked, self._safe = self._tree()
        self._synced = {number: dict(names) for number, names in asked.items()}
        with pytest.MonkeyPatch.context() as patch:
            for name in ("fsync", "rename", "replace", "link", "unlink", "mkdir"):
                patch.setattr(os, name, self._watched(name, getattr(os, name)))
            try:
                yield
            finally:
                self._note("end")
        for handle in self._open:
            os.close(handle)

    def _watched(self, name: str, call: Any) -> Any:
        def watched(*arguments: Any, **options: Any) -> Any:
            if name == "fsync":
                call(*arguments)
                self._sync(os.fstat(arguments[0]).st_ino)
                self._note("after fsync")
                return None
            self._note(f"before {name} {arguments}")
            try:
                return call(*arguments, **options)
            finally:
                self._note(f"after {name} {arguments}")

        return watched

    def _tree(self) -> tuple[dict[int, Names], dict[int, bytes]]:
        names, contents = {}, {}
        for place, folders, found in os.walk(self.folder):
            paths = {name: Path(place) / name for name in (*folders, *found)}
            names[Path(place).stat().st_ino] = {name: path.lstat().st_ino for name, path in paths.items()}
            contents |= {paths[name].lstat().st_ino: paths[name].read_bytes() for name in found}
            self._open += [os.open(path, os.O_RDONLY) for path in (Path(place), *paths.values())]
        return names, contents

    def _sync(self, inode: int) -> None:
        names, contents = self._tree()
        if inode in contents:
            self._safe[inode] = contents[inode]
        elif inode in names:
            self._synced[inode] = names[inode]

    def _note(self, step: str) -> None:
        asked, contents = self._tree()
        synced = {number: dict(names) for number, names in self._synced.items()}
        self.moments.append(Moment(step, synced, asked, contents, dict(self._safe)))

    def states(self, place: Path) -> Iterator[tuple[Moment, Path]]:
        """Yield every moment with each folder that the disk may hold then: one after the other, in one place."""
        root = self.folder.stat().st_ino
        for moment in self.moments:
            several = [self._either(moment, number) for number in moment.asked.keys() | moment.synced.keys()]
            for names, kept in product(product(*several), (True, False)):
                shutil.rmtree(place, ignore_errors=True)
                self._lay_out(place, root, dict(names), moment, kept)
                yield moment, place

    @staticmethod
    def _either(moment: Moment, number: int) -> list[tuple[int, Names]]:
        """Return what a folder may hold: what was synced, with any part of the changes since, in their order or not."""
        old, new = moment.synced.get(number, {}), moment.asked.get(number, {})
        changed = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
        found = []
        for taken in product((False, True), repeat=len(changed)):
            from_new = {name for name, take in zip(changed, taken, strict=True) if take}
            both = [(name, new if name in from_new else old) for name in old.keys() | new.keys()]
            names = {name: source[name] for name, source in both if name in source}
            found.append((number, names))
        return found

    def _lay_out(self, place: Path, number: int, names: dict[int, Names], moment: Moment, kept: bool) -> None:
        place.mkdir()
        for name, inner in names.get(number, {}).items():
            if inner in names:
                self._lay_out(place / name, inner, names, moment, kept)
            else:  # without a sync, the name may have reached the disk before the content
                sure = moment.safe.get(inner, b"")
                (place / name).write_bytes(moment.contents.get(inner, sure) if kept else sure)
