"""CIFAR's python batches, through torchvision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from continual.datasets.collection import Images
from continual.datasets.readers.base import Layout
from continual.errors import InputError


class CIFAR10(Layout):
    """Images as arrays (32, 32, 3), uint8; of the archive, or of the folder that holds it."""

    name = "cifar10"
    lists_files = False

    def look(self, place: Path, domains: bool = False, channels: int = 3) -> tuple[Images, Images] | None:
        import torchvision.datasets

        reader: Any = getattr(torchvision.datasets, self.name.upper())
        place = place.parent if place.name == reader.base_folder else place
        if not (place / reader.base_folder).is_dir():
            return None
        parts = []
        for train in (True, False):
            try:
                found = reader(str(place), train=train, download=False)
            except Exception as error:  # torchvision passes on whatever reading and unpickling raise
                raise InputError(
                    f"{place / reader.base_folder} is damaged ({error}): unpack the archive again (equimos data "
                    f"prepare {self.name} --download)"
                ) from error
            labels = [found.classes[target] for target in found.targets]
            split = "train" if train else "test"
            parts.append(Images(list(found.data), labels, None, [f"{split}/{i}" for i in range(len(labels))]))
        return parts[0], parts[1]


class CIFAR100(CIFAR10):
    """The same with a hundred classes: the fine labels."""

    name = "cifar100"
