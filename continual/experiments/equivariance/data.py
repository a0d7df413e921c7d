"""The images of a study: training, held-out and test images of the same classes, ready for a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from continual.console import count
from continual.data.images import image_files, open_image
from continual.data.inputs import Label, PreparedImages, as_images, check_readable, list_folder
from continual.data.preprocessing import Preprocessing
from continual.datasets.config import load_data
from continual.errors import InputError
from continual.experiments.equivariance.config import ImagesConfig
from continual.experiments.equivariance.models import Classifier
from continual.seeding import generator


@dataclass(frozen=True)
class Part:
    """Raw images, and the index of each one's class."""

    images: Sequence[Any] | Tensor
    classes: list[int]

    def prepared(self, preprocessing: Preprocessing, indices: Sequence[int] | None = None) -> Dataset[Any]:
        """Return (input (3, H, W), label) pairs; `indices` says which score is which class's.

        They are prepared once and kept if they take less than a gibibyte, else whenever they are asked for.
        """
        labels: list[Label] = [c if indices is None else indices[c] for c in self.classes]
        data = PreparedImages(as_images(self.images), labels, preprocessing, augment=False)
        if 3 * 4 * preprocessing.size[0] * preprocessing.size[1] * len(data) > 2**30:
            return data
        return TensorDataset(torch.stack([data[i][0] for i in range(len(data))]), torch.tensor(labels))


@dataclass(frozen=True)
class Split:
    """The images of a study; `classes` are in the order of their names."""

    classes: tuple[str, ...]
    train: Part
    validation: Part
    test: Part


def split_of(config: ImagesConfig, seed: int) -> Split:
    """Return the images of a config; `seed` decides which of a class are used and which are held out."""
    train, test = load_data(config)
    classes = tuple(sorted({str(label) for label in train[1]}))[: config.classes]
    rows, held = [], []
    for name, found in zip(classes, _rows(train[1], classes, "train", seed), strict=True):
        if len(found) < 2:
            raise InputError(f"class {name!r} has 1 training image: it takes 2, one to train and one to validate")
        used = found[: config.per_class]
        count = min(max(1, round(config.validation * len(used))), len(used) - 1)
        held.append(used[:count])
        rows.append(used[count:])
    tests = [found[: config.test_per_class] for found in _rows(test[1], classes, "test", seed)]
    return Split(classes, _part(train[0], rows), _part(train[0], held), _part(test[0], tests))


def of_folder(folder: Path, per_class: int | None = None) -> tuple[tuple[str, ...], Part]:
    """Return the classes of an image folder, and its images or so many of each class."""
    images, labels = list_folder(folder)
    check_readable(images)
    classes = tuple(sorted(set(labels)))
    return classes, _part(images, [found[:per_class] for found in _rows(labels, classes, "test", 0)])


def some_images(found: Classifier, folder: Path | None, number: int) -> tuple[Tensor, str]:
    """Return inputs (n, 3, H, W), evenly from a folder's images or random, and where they come from."""
    if folder is None:
        draw = torch.randn(number, 3, *found.preprocessing.size, generator=generator(0, "images to check with"))
        return draw, f"{count(number, 'random image')}: real ones say more (--images DIR)"
    if not folder.is_dir():
        raise InputError(f"no folder {folder}")
    paths = image_files(folder)
    if not paths:
        raise InputError(f"{folder} holds no images")
    number = min(number, len(paths))
    view = found.preprocessing.evaluation()
    chosen = [paths[i * len(paths) // number] for i in range(number)]
    return torch.stack([view(open_image(path)) for path in chosen]), f"{count(number, 'image')} of {folder}"


def noise(classes: int) -> Split:
    """Return random images, two per class: to try a study without its data."""
    images = torch.randint(0, 256, (2 * classes, 3, 32, 32), dtype=torch.uint8, generator=generator(0, "noise"))
    part = Part(images, [i % classes for i in range(2 * classes)])
    return Split(tuple(f"class {c}" for c in range(classes)), part, part, part)


def score_indices(found: Classifier, classes: Sequence[str]) -> list[int]:
    """Return which of a classifier's scores is which class's; raises InputError if that cannot be known."""
    if found.head is None and found.classes is None:
        raise InputError(f"{found.name} gives features, no class scores: fit a head to your training images")
    known = found.classes
    if known is not None and set(classes) <= set(known):
        return [known.index(name) for name in classes]
    count = len(known) if known is not None else _scores(found)
    if known is None and count == len(classes):
        return list(range(count))
    missing = next(name for name in classes if name not in (known or ()))
    raise InputError(
        f"{found.name} scores {count} classes, and the images' {missing!r} is none of them: fit a head to "
        f"your training images"
    )


def _scores(found: Classifier) -> int:
    assert found.head is not None
    linear = [module for module in found.head.modules() if isinstance(module, torch.nn.Linear)]
    return linear[-1].out_features if linear else 0


def _rows(labels: Sequence[Label], classes: Sequence[str], part: str, seed: int) -> list[list[int]]:
    """Return the indices of each class's images in an order that depends on the seed and the class alone."""
    found: dict[str, list[int]] = {name: [] for name in classes}
    for i, label in enumerate(labels):
        if str(label) in found:
            found[str(label)].append(i)
    orders = (torch.randperm(len(rows), generator=generator(seed, part, name)) for name, rows in found.items())
    return [[rows[i] for i in order] for rows, order in zip(found.values(), orders, strict=True)]


def _part(images: Sequence[Any] | Tensor, rows: Sequence[Sequence[int]]) -> Part:
    """Return the images at some indices for each class."""
    chosen = [i for found in rows for i in found]
    picked = images[chosen] if isinstance(images, Tensor) else [images[i] for i in chosen]
    return Part(picked, [c for c, found in enumerate(rows) for _ in found])
