"""CUB-200-2011 as its archive has it: images/, images.txt and train_test_split.txt."""

from __future__ import annotations

from pathlib import Path

from continual.datasets.collection import Entry
from continual.datasets.readers.base import Layout, present, table
from continual.errors import InputError


class CUB(Layout):
    """Its own lists; a class is the folder of its images."""

    name = "cub"

    def look(self, place: Path, domains: bool = False, channels: int = 3) -> list[Entry] | None:
        if not (place / "images.txt").is_file():
            return None
        paths = table(place / "images.txt", 2)
        training = table(place / "train_test_split.txt", 2)
        if paths.keys() != training.keys():
            odd = sorted(paths.keys() ^ training.keys())
            raise InputError(f"{place}: images.txt and train_test_split.txt list different images, such as {odd[0]}")
        if bad := [key for key, (flag,) in training.items() if flag not in ("0", "1")]:
            raise InputError(f"{place / 'train_test_split.txt'}: image {bad[0]} is neither 1 (training) nor 0 (test)")
        entries = [
            Entry(place / "images" / name, name, name.rpartition("/")[0], "train" if training[key] == ["1"] else "test")
            for key, (name,) in paths.items()
        ]
        return present(place / "images.txt", entries)
