"""Labelled images in the forms people have them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from continual.data.image_cache import DecodedOnce
from continual.data.images import check_readable, list_folder, open_image
from continual.data.preprocessing import Preprocessing
from continual.errors import InputError

#: A class's name as the user knows it.
Label = str | int


@dataclass(frozen=True)
class ExperienceData:
    """The images of one experience, twice: augmented for training and as they are for statistics.

    Items are (float tensor (3, H, W), label, ...); further entries are ignored. `labels` are those of all
    items, in order.
    """

    training: Dataset[Any]
    evaluation: Dataset[Any]
    labels: Sequence[Label]


class PreparedImages(Dataset[tuple[Tensor, Label]]):
    """Raw images with their labels, turned into the backbone's input when they are asked for.

    An item may be a path, a PIL image, a uint8 tensor (1 or 3, H, W) or array (H, W[, 3]), all of which are
    preprocessed, or a float tensor (3, H, W), which is taken as a finished input.
    """

    def __init__(
        self, images: Sequence[Any], labels: Sequence[Label], preprocessing: Preprocessing, *, augment: bool
    ) -> None:
        self.images, self.labels, self.preprocessing = images, labels, preprocessing
        self._transform = preprocessing.training() if augment else preprocessing.evaluation()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Label]:
        raw = self.images[index]
        if isinstance(raw, Tensor) and raw.is_floating_point():
            try:
                self.preprocessing.check(raw[None])
            except ValueError as error:
                raise InputError(f"image {index}: {error}") from error
            return raw, self.labels[index]
        return self._transform(open_image(raw, index)), self.labels[index]


def plain_labels(labels: Any) -> list[Label]:
    """Return labels (list, array or tensor) as a list of str or int; raise InputError on anything else."""
    values = labels.tolist() if isinstance(labels, Tensor | np.ndarray) else labels
    if not isinstance(values, Iterable):
        raise InputError(f"labels must be a list, an array or a tensor, got {type(labels).__name__}")
    values = [value.item() if isinstance(value, Tensor | np.generic) and value.ndim == 0 else value for value in values]
    for value in values:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise InputError(f"labels must be all str or all int, got {value!r} of type {type(value).__name__}")
    if len({type(value) for value in values}) > 1:
        raise InputError("labels must be all str or all int, got both")
    return values


def as_experience(images: Any, labels: Any, preprocessing: Preprocessing, *, decoded: int = 0) -> ExperienceData:
    """Turn what `learn` was given into an experience.

    `images` is a folder of class folders (labels None), a torch data set of (image, label) pairs (labels
    None), or a sequence, array or tensor of images with as many labels. At most `decoded` bytes of opened image files
    are kept in memory.
    """
    if isinstance(images, ExperienceData):
        return images
    if isinstance(images, str | Path):
        if labels is not None:
            raise InputError("a folder names its classes itself: leave labels out")
        images, labels = list_folder(images)
        check_readable(images)
    elif labels is None:
        images, labels = _pairs(images)
    images, labels = labelled(images, labels)
    if not labels:
        raise InputError("an experience needs at least one image")
    _check_floats(images, preprocessing)
    if decoded:
        images = DecodedOnce(images, decoded)
    return ExperienceData(
        PreparedImages(images, labels, preprocessing, augment=True),
        PreparedImages(images, labels, preprocessing, augment=False),
        labels,
    )


def labelled(images: Any, labels: Any, what: str = "") -> tuple[Sequence[Any], list[Label]]:
    """Return `as_images` and `plain_labels` of what must be as many images as labels; else raises InputError."""
    images, labels = as_images(images), plain_labels(labels)
    if len(images) != len(labels):
        raise InputError(f"{what}{len(images)} images but {len(labels)} labels: give one label per image")
    return images, labels


def as_images(images: Any) -> Sequence[Any]:
    """Return images as a sequence of single images; a lone image is refused with the cure."""
    if isinstance(images, str | Path | Image.Image):
        raise InputError("give a list of images: [image] for a single one")
    if isinstance(images, Tensor | np.ndarray) and images.ndim not in (3, 4):
        raise InputError(f"images have shape {tuple(images.shape)}: give a batch, (B, 3, H, W)")
    single = isinstance(images, Tensor) or (isinstance(images, np.ndarray) and images.shape[-1] in (3, 4))
    if single and images.ndim == 3:
        raise InputError(f"images have shape {tuple(images.shape)}: give a batch, image[None] for a single one")
    if not hasattr(images, "__len__") or not hasattr(images, "__getitem__"):
        raise InputError(f"images must be a sequence, an array or a tensor, got {type(images).__name__}")
    return images


def _pairs(dataset: Any) -> tuple[ImageColumn, list[Any]]:
    if not hasattr(dataset, "__getitem__") or isinstance(dataset, Tensor | np.ndarray):
        raise InputError("give labels, a folder of class folders, or a data set of (image, label) pairs")
    targets = getattr(dataset, "targets", None)
    try:
        labels = plain_labels(targets) if targets is not None else plain_labels([x[1] for x in _iterate(dataset)])
    except (TypeError, LookupError) as error:
        raise InputError(f"a data set without labels must give (image, label) pairs: {error}") from error
    return ImageColumn(dataset), labels


def _iterate(dataset: Any) -> Iterator[Any]:
    return (dataset[i] for i in range(len(dataset)))


@dataclass(frozen=True)
class ImageColumn(Sequence[Any]):
    """The images of a data set of (image, label) pairs."""

    dataset: Any

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: Any) -> Any:
        return self.dataset[index][0]


def _check_floats(images: Sequence[Any], preprocessing: Preprocessing) -> None:
    """Check finished inputs that are in memory before anything is done with them."""
    try:
        if isinstance(images, Tensor) and images.is_floating_point():
            preprocessing.check(images)
        elif isinstance(images, list | tuple):
            for image in images:
                if isinstance(image, Tensor) and image.is_floating_point():
                    preprocessing.check(image[None])
    except ValueError as error:
        raise InputError(str(error)) from error
