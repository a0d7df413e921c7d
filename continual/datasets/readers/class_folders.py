"""Folders with a sub-folder of images per class: two named ones, the parts of a split, or one without a split."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from continual.data.file_kinds import is_read, kind_at
from continual.data.folders import alike_inside, ignored, parts_in, subfolders
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
        asked: Any = {"domains": config.domains, "channels": config.channels}
        entries = [e for part, split in parts for e in below(part, part.parent, split, **asked)]
        return collected(config, entries, f"{config.train} and {config.test}", "the two folders")


class Folders(Layout):
    """A path to a folder with train/CLASS and test/CLASS or val/CLASS; with `domains`, train/DOMAIN/CLASS.

    The parts go by any name of `continual.data.folders.PARTS`, in any case.
    """

    name = "folders"
    by_path, rank = True, 2
    keys = frozenset({"domains"})

    def read(self, config: DataTable, *, download: bool = False) -> Collection | None:
        place = Path(config.source)
        if not (entries := self.look(place, config.domains, config.channels)):
            return None
        used = {entry.split for entry in entries}
        names = {part: f"{folder.name}/" for part, folder in parts_in(place).items()}
        remarks = [f"{name} holds no class folders and is left out" for part, name in names.items() if part not in used]
        origin = f"{' and '.join(name for part, name in names.items() if part in used)} in {place}"
        return collected(config, entries, origin, "the folders'", remarks, folder=place)

    def look(self, place: Path, domains: bool = False, channels: int = 3) -> list[Entry] | None:
        parts = parts_in(place)
        if "train" not in parts or len(parts) == 1:
            return None
        # Test images are often handed out without labels, in one heap; then the validation part stands for them.
        if "val" in parts and "test" in parts and not subfolders(parts["test"]):
            del parts["test"]
        asked: Any = {"domains": domains, "channels": channels}
        return [entry for part, folder in parts.items() for entry in below(folder, place, part, **asked)]


class Flat(Layout):
    """A path that nothing else takes: CLASS folders without a split; with `domains`, DOMAIN/CLASS.

    A folder with a training part alone stands for that part.
    """

    name = "flat"
    by_path, rank = True, 3
    keys = frozenset({"domains"})

    def read(self, config: DataTable, *, download: bool = False) -> Collection:
        place = Path(config.source)
        entries = self.look(place, config.domains, config.channels)
        if entries is None:
            raise InputError(
                f"no data at {place}: give a folder with one sub-folder of images per class, or a CSV manifest"
            )
        same = "" if config.domains or parts_in(place) else alike_inside(subfolders(place))
        return collected(config, entries, f"class folders in {place}", "drawn", [same] if same else [], folder=place)

    def may_be(self, place: Path) -> bool:
        # Images two levels down: in class folders, not in folders of data sets.
        kinds = subfolders(place) if place.is_dir() else []
        files = (file for kind in kinds for file in kind.iterdir())
        return any(not ignored(file.name) and is_read(kind_at(file)) for file in files)

    def look(self, place: Path, domains: bool = False, channels: int = 3) -> list[Entry] | None:
        if parts := parts_in(place):
            if "train" not in parts:
                names = " and ".join(f"{part.name}/" for part in parts.values())
                raise InputError(f"{place} holds {names}, and no training images: give the folder of classes itself")
            return list(below(parts["train"], place, None, domains=domains, channels=channels))
        return list(below(place, place, None, domains=domains, channels=channels)) if place.is_dir() else None
