"""Tiny ImageNet as its archive has it: train/WNID/images, and val/images with val_annotations.txt for testing."""

from __future__ import annotations

from pathlib import Path

from continual.datasets.collection import Entry
from continual.datasets.readers.base import Layout, below, present, table


class TinyImageNet(Layout):
    """Its labelled validation images are the test images, as everywhere in print."""

    name = "tiny_imagenet"

    def look(self, place: Path, domains: bool = False, channels: int = 3) -> list[Entry] | None:
        notes = place / "val" / "val_annotations.txt"
        if not notes.is_file():
            return None
        train = list(below(place / "train", place, "train"))
        labels = table(notes, 6)
        folder = place / "val" / "images"
        test = [Entry(folder / name, f"val/images/{name}", label, "test") for name, (label, *_) in labels.items()]
        return [*train, *present(notes, test)]
