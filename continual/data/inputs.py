"""Labelled images in the forms people have them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import numpy as np
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from continual.data.images import DecodedOnce, check_readable, list_folder, open_image, warn_of_unread
from continual.data.preprocessing import Preprocessing
from continual.errors import InputError

Label = str | int  #: a class's name as the user knows it


@dataclass(frozen=True)
class ExperienceData:
    """The images of one experience, twice; items are (float tensor (3, H, W), label, ...), further entries ignored."""

    training: Dataset[Any]  #: augmented
    evaluation: Dataset[Any]  #: as they are, for statistics
    labels: Sequence[Label]  #: of all items, in order


class PreparedImages(Dataset[tuple[Tensor, Label]]):
    """Raw images with their labels, made the backbone's input when they are asked for.

    Float tensors (3, H, W) are taken as finished inputs, all else that `open_image` takes is preprocessed.
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
        if not _is_float(raw):
            return self._transform(open_image(raw, index)), self.labels[index]
        try:
            self.preprocessing.check(raw[None])
        except ValueError as error:
            raise InputError(f"image {index}: {error}") from error
        return raw, self.labels[index]


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
    """Make what `learn` was given an experience.

    `images` is a folder of class folders (labels None), a torch data set of (image, label) pairs (labels None), or a
    sequence, array or tensor of images with as many labels. At most `decoded` bytes of opened files are kept in memory.
    """
    if isinstance(images, ExperienceData):
        return images
    if isinstance(images, str | Path):
        if labels is not None:
            raise InputError("a folder names its classes itself: leave labels out")
        warn_of_unread(images)
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
    views = [PreparedImages(images, labels, preprocessing, augment=augment) for augment in (True, False)]
    return ExperienceData(views[0], views[1], labels)


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
        labels = plain_labels([dataset[i][1] for i in range(len(dataset))] if targets is None else targets)
    except (TypeError, LookupError) as error:
        raise InputError(f"a data set without labels must give (image, label) pairs: {error}") from error
    return ImageColumn(dataset), labels


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
        if _is_float(images):
            preprocessing.check(images)
        elif isinstance(images, list | tuple):
            for image in filter(_is_float, images):
                preprocessing.check(image[None])
    except ValueError as error:
        raise InputError(str(error)) from error


def _is_float(value: Any) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.is_floating_point()
