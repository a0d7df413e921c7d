"""Published data sets in small: the layouts people have, with every class and two or three tiny pictures of each."""

from __future__ import annotations

import pickle
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image


@cache
def _png(number: int) -> bytes:
    """A picture of 4 x 4 pixels, another for every number."""
    data = BytesIO()
    pixels = np.random.RandomState(number).randint(0, 256, (4, 4, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(data, "png")
    return data.getvalue()


_count = iter(range(10**9))


def picture(path: Path) -> Path:
    """Write a picture that no other file holds."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_png(next(_count)))
    return path


def names(classes: int) -> list[str]:
    return [f"n{c:04}" for c in range(classes)]


def release(root: Path, classes: int, train: int = 2, test: int = 1) -> Path:
    """train/CLASS and test/CLASS, as the class-incremental releases have them."""
    for name in names(classes):
        for part, count in (("train", train), ("test", test)):
            for i in range(count):
                picture(root / part / name / f"{part}{i}.png")
    return root


def flat(root: Path, classes: int, each: int = 3) -> Path:
    """CLASS folders and a README, as in imagenet-r.tar."""
    for name in names(classes):
        for i in range(each):
            picture(root / name / f"{i}.png")
    (root / "README.txt").write_text("pictures")
    return root


def cub(root: Path, classes: int, train: int = 2, test: int = 1) -> Path:
    """images/CLASS, images.txt and train_test_split.txt, as in CUB_200_2011.tgz."""
    images, split, number = [], [], 0
    for c, name in enumerate(names(classes), 1):
        for i in range(train + test):
            number += 1
            file = f"{c:03}.{name}/{name}_{i}.jpg"
            picture(root / "images" / file)
            images.append(f"{number} {file}\n")
            split.append(f"{number} {int(i < train)}\n")
    (root / "images.txt").write_text("".join(images))
    (root / "train_test_split.txt").write_text("".join(split))
    return root


def tiny_imagenet(root: Path, classes: int, train: int = 2, test: int = 1) -> Path:
    """train/WNID/images, val/images and val_annotations.txt, test/images without labels."""
    lines = []
    for c, name in enumerate(names(classes)):
        for i in range(train):
            picture(root / "train" / name / "images" / f"{name}_{i}.JPEG")
        for i in range(test):
            file = f"val_{c * test + i}.JPEG"
            picture(root / "val" / "images" / file)
            lines.append(f"{file}\t{name}\t0\t0\t3\t3\n")
    picture(root / "test" / "images" / "test_0.JPEG")
    (root / "val" / "val_annotations.txt").write_text("".join(lines))
    return root


def cifar(root: Path, classes: int, patch: pytest.MonkeyPatch, train: int = 2, test: int = 1) -> Path:
    """Python batches as torchvision reads them; its check of their hashes is switched off."""
    from torchvision.datasets import CIFAR10, CIFAR100

    reader: Any = CIFAR100 if classes == 100 else CIFAR10
    patch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    patch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    folder = root / reader.base_folder
    folder.mkdir(parents=True)
    label = "fine_labels" if classes == 100 else "labels"
    for files, count in ((reader.train_list, train), (reader.test_list, test)):
        for i, (file, _) in enumerate(files):
            rows = [c for c in range(classes) for _ in range(count)] if i == 0 else []
            pixels = np.random.RandomState(len(rows) + i).randint(0, 256, (len(rows), 3072)).astype(np.uint8)
            (folder / file).write_bytes(pickle.dumps({"data": pixels, label: rows}))
    key = reader.meta["key"]
    (folder / reader.meta["filename"]).write_bytes(pickle.dumps({key: names(classes)}))
    return root


def small_catalogue(patch: pytest.MonkeyPatch) -> None:
    """Let every published data set have six classes, with two training images and one for testing each."""
    from continual.datasets.catalogue import catalogue

    table = {}
    for name, about in catalogue().items():
        layouts = tuple(x.model_copy(update={"train": 12, "test": 6}) for x in about.layouts)
        table[name] = about.model_copy(update={"classes": 6, "layouts": layouts})
    for module in ("catalogue", "readers.published"):
        patch.setattr(f"continual.datasets.{module}.catalogue", lambda: table)


def fake(name: str, root: Path, patch: pytest.MonkeyPatch) -> Path:
    """Make a published data set in small, in the layout that people mostly have."""
    from continual.datasets.catalogue import published

    classes = published(name).classes
    if name.startswith("cifar"):
        return cifar(root, classes, patch)
    return {"tiny_imagenet": tiny_imagenet}.get(name, release)(root, classes)
