"""Folders with a sub-folder of images per class: two named ones, train/ and test/ in one, or one without a split."""

from __future__ import annotations

from pathlib import Path

from continual.data.file_kinds import is_read, kind_at
from continual.datasets.collection import Collection, Entry
from continual.datasets.readers.base import DataTable, Layout, Reader, below, collected
from continual.errors import InputError


class Folder(Reader):
    """`source = "folder"`: the folders `train` and `test`."""

    name = "folder"
    keys = frozenset({"train", "test", "domains"})

    def check_keys(self, config: DataTable) -> None:
        if config.train is None or config.test is None:
            raise ValueError("source = 'folder' needs both train and test")
        super().check_keys(config)

    def read(self, config: DataTable, *, download: bool = False) -> Collection:
        assert config.train is not None
        assert config.test is not None
        parts = ((config.train, "train"), (config.test, "test"))
        entries = [e for part, split in parts for e in below(part, part.parent, split, domains=config.domains)]
        return collected(config, entries, f"{config.train} and {config.test}", "the two folders")


class Folders(Layout):
    """A path to a folder with train/CLASS and test/CLASS (or val/CLASS); with `domains`, train/DOMAIN/CLASS."""

    name = "folders"
    by_path, rank = True, 2
    keys = frozenset({"domains"})

    def read(self, config: DataTable, *, download: bool = False) -> Collection | None:
        place = Path(config.source)
        if entries := self.look(place, config.domains):
            return collected(config, entries, f"train/ and test/ in {place}", "the folders'", folder=place)
        return None

    def look(self, place: Path, domains: bool = False) -> list[Entry] | None:
        test = next((place / name for name in ("test", "val") if (place / name).is_dir()), None)
        if not (place / "train").is_dir() or test is None:
            return None
        parts = ((place / "train", "train"), (test, "test"))
        return [entry for part, split in parts for entry in below(part, place, split, domains=domains)]


class Flat(Layout):
    """A path that nothing else takes: CLASS folders without a split; with `domains`, DOMAIN/CLASS."""

    name = "flat"
    by_path, rank = True, 3
    keys = frozenset({"domains"})

    def read(self, config: DataTable, *, download: bool = False) -> Collection:
        place = Path(config.source)
        entries = self.look(place, config.domains)
        if entries is None:
            raise InputError(
                f"no data at {place}: give a folder with one sub-folder of images per class, or a CSV manifest"
            )
        return collected(config, entries, f"class folders in {place}", "drawn", folder=place)

    def may_be(self, place: Path) -> bool:
        # Images two levels down: in class folders, not in folders of data sets.
        kinds = [kind for kind in place.iterdir() if kind.is_dir()] if place.is_dir() else []
        return any(is_read(kind_at(file)) for kind in kinds for file in kind.iterdir())

    def look(self, place: Path, domains: bool = False) -> list[Entry] | None:
        return list(below(place, place, None, domains=domains)) if place.is_dir() else None
