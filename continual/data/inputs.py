"""Labelled images in the forms people have them."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from continual.data.arrays import Array, as_array, check_finished, finished, is_float, needs_range, range_among
from continual.data.bands import check_pictures, pictures
from continual.data.containers import LOOKED_AT, as_batch, by_position, image_of, in_order
from continual.data.containers import Label as Label
from continual.data.containers import plain_labels as plain_labels
from continual.data.data_sets import ImageColumn, dataset_labels, is_dataset, with_length
from continual.data.decoding import decoded as read_file
from continual.data.decoding import unpacked
from continual.data.images import (
    DecodedOnce,
    check_readable,
    image_files,
    list_folder,
    open_image,
    unread,
    warn_of_classes,
    warn_of_unread,
)
from continual.data.preprocessing import Preprocessing
from continual.data.ranges import NORMALISED, ValueRange, ValueRangeWarning, dark
from continual.data.tensors import picture
from continual.errors import InputError
from continual.seeding import seeded


@dataclass(frozen=True)
class UnlabelledData:
    """Images without labels, twice, as in `ExperienceData`; their labels mean nothing."""

    training: Dataset[Any]
    evaluation: Dataset[Any]

    def __len__(self) -> int:
        return len(self.evaluation)  # type: ignore[arg-type]


@dataclass(frozen=True)
class ExperienceData:
    """The images of one experience, twice; items are (float tensor (3, H, W), label, ...), further entries ignored."""

    training: Dataset[Any]  #: augmented
    evaluation: Dataset[Any]  #: as they are, for statistics
    labels: Sequence[Label]  #: of all items, in order
    value_range: str | None = None  #: what the images' numbers meant, see `continual.data.ranges`; None for pictures
    unlabelled: UnlabelledData | None = None  #: further images, of which nobody said what they are


class PreparedImages(Dataset[tuple[Tensor, Label]]):
    """Raw images with their labels, made the backbone's input when they are asked for.

    Normalised images (3, H, W) are taken as finished inputs, all else is preprocessed. `value_range` is the name of
    what floats and wider integers mean; if it is None, that is decided here, see `range_of`.
    """

    def __init__(
        self,
        images: Any,
        labels: Sequence[Label],
        preprocessing: Preprocessing,
        *,
        augment: bool,
        value_range: str | None = None,
    ) -> None:
        self.images, self.labels, self.preprocessing = by_position(images), labels, preprocessing
        channels = preprocessing.channels
        self.value_range = range_of(self.images, channels=channels) if value_range is None else value_range
        self._transform = preprocessing.training() if augment else preprocessing.evaluation()

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Label]:
        raw = image_of(self.images[index], index)
        return prepared(raw, index, self.preprocessing, self._transform, self.value_range), self.labels[index]


def prepared(
    raw: Any, index: int | str, preprocessing: Preprocessing, transform: Any, value_range: str | None
) -> Tensor:
    """Return one raw image as the backbone's input: `transform` applied, unless it is normalised already."""
    unfolded = unpacked(raw, preprocessing.channels)
    index = index if unfolded is raw else str(raw)
    raw = unfolded
    array = as_array(raw)
    if array is not None and is_float(array) and value_range == NORMALISED:
        return _checked(array, preprocessing, f"image {index}: ")
    image = raw if array is None else picture(array, index, value_range, preprocessing.channels)
    if not isinstance(image, Tensor):
        image = open_image(image, index, preprocessing.channels, value_range)
    if isinstance(image, Image.Image) and preprocessing.channels != 3:
        check_pictures(preprocessing.channels)
        image = image.convert("L")
    result: Tensor = transform(image)
    return result


def as_experience(
    images: Any,
    labels: Any,
    preprocessing: Preprocessing,
    *,
    decoded: int = 0,
    value_range: ValueRange | None = None,
    remembered: str | None = None,
) -> ExperienceData:
    """Make what `learn` was given an experience.

    `images` is a folder of class folders (labels None), a data set or loader of (image, label) pairs (labels None), or
    a sequence, array, tensor or column of images with as many labels. At most `decoded` bytes of opened files are kept
    in memory. `value_range` states what floats and wider integers mean, `remembered` what they were when last learned.
    """
    if isinstance(images, ExperienceData):
        return images
    if isinstance(images, str | Path):
        if labels is not None:
            raise InputError("a folder names its classes itself: leave labels out")
        warn_of_unread(images, preprocessing.channels)
        folder = images
        images, labels = list_folder(folder, preprocessing.channels)
        warn_of_classes(folder)
        check_readable(images, channels=preprocessing.channels)
    elif labels is None:
        images, labels = _pairs(images)
    images, labels = labelled(images, labels)
    if not labels:
        raise InputError("an experience needs at least one image")
    name = range_of(images, value_range, remembered, preprocessing.channels)
    if name is None and pictures(preprocessing.channels):
        _warn_of_dark(images)
    _check_finished(images, preprocessing, name)
    if decoded:
        images = DecodedOnce(images, decoded, preprocessing.channels, name)
    views = [PreparedImages(images, labels, preprocessing, augment=on, value_range=name) for on in (True, False)]
    return ExperienceData(views[0], views[1], labels, name)


def _warn_of_dark(images: Sequence[Any]) -> None:
    """Warn of files of 16 bits that are nearly black; some are looked at, none if the first has no 16 bits."""
    if not isinstance(images, list | tuple) or not isinstance(images[0], str | Path):
        return
    if read_file(images[0]).brightest is None:
        return
    some = images[:: max(1, -(-len(images) // LOOKED_AT))]
    depths = [read_file(image).brightest for image in some if isinstance(image, str | Path)]
    if said := dark([most for most in depths if most is not None]):
        warnings.warn(said, ValueRangeWarning, stacklevel=3)


def with_unlabelled(data: ExperienceData, images: Any, preprocessing: Preprocessing) -> ExperienceData:
    """Return an experience with further images, as `predict` takes them, that have no labels; the same without any.

    What their numbers mean is as in those that have labels.
    """
    found = [] if images is None else to_predict(images, preprocessing.channels)
    if not len(found):
        return data
    views = [
        PreparedImages(found, [0] * len(found), preprocessing, augment=on, value_range=data.value_range)
        for on in (True, False)
    ]
    return replace(data, unlabelled=UnlabelledData(views[0], views[1]))


def labelled(images: Any, labels: Any, what: str = "") -> tuple[Sequence[Any], list[Label]]:
    """Return `as_images` and `plain_labels` of what must be as many images as labels; else raises InputError."""
    images, labels = as_images(images), plain_labels(labels)
    if len(images) != len(labels):
        raise InputError(f"{what}{len(images)} images but {len(labels)} labels: give one label per image")
    return images, labels


def as_images(images: Any) -> Sequence[Any]:
    """Return images as a sequence of single images, by position; a lone image is refused with the cure."""
    images = in_order(images)
    return ImageColumn(with_length(images)) if is_dataset(images) else as_batch(images)


def to_predict(images: Any, channels: int) -> Sequence[Any]:
    """Return what `predict` was given as a sequence: also a file, a folder with images at any depth, or a PIL image."""
    if isinstance(images, str | Path):
        if not Path(images).is_dir():
            return [Path(images)]
        if not (files := image_files(Path(images), channels)):
            others = unread(Path(images), channels=channels)
            raise InputError(f"{images} holds no images: {others or 'give a folder with some'}")
        warn_of_unread(images, channels)
        return files
    return as_images([images] if isinstance(images, Image.Image) else images)


def paths_of(images: Sequence[Any]) -> list[Path] | None:
    """Return where images lie, if all are files."""
    files = isinstance(images, list | tuple) and all(isinstance(image, str | Path) for image in images)
    return [Path(image) for image in images] if files else None


def _pairs(images: Any) -> tuple[Sequence[Any], list[Label]]:
    images = by_position(images)
    if isinstance(images, Tensor | np.ndarray) or not (is_dataset(images) or hasattr(images, "__getitem__")):
        raise InputError("give labels, a folder of class folders, or a data set of (image, label) pairs")
    dataset = with_length(images)
    return ImageColumn(dataset), dataset_labels(dataset)


# Ranges ------------------------------------------------------------------------------------------------------


def range_of(
    images: Any, stated: ValueRange | None = None, remembered: str | None = None, channels: int = 3
) -> str | None:
    """Return what the numbers of images mean, by `continual.data.ranges`; None if all say it themselves.

    All that are in memory are looked at; of a data set, and of files of many `channels`, `LOOKED_AT` of its images.
    Raises InputError for NaN.
    """
    if stated is None and isinstance(images, ImageColumn) and _prepares(images.dataset):
        stated = NORMALISED
    return range_among(_looked_at(images, channels) if stated is None else (), stated, remembered)


def _prepares(dataset: Any) -> bool:
    """Tell whether a data set's images are the backbone's inputs."""
    inner = getattr(dataset, "dataset", None)
    return isinstance(dataset, PreparedImages) or (inner is not None and _prepares(inner))


def _looked_at(images: Any, channels: int) -> Iterator[Any]:
    """Yield the arrays among images; of a data set, and of files, some; none if its first image is no such array."""
    if isinstance(images, Tensor | np.ndarray):
        yield as_array(images)
        return
    indices: Sequence[int] = range(len(images))
    step = max(1, -(-len(images) // LOOKED_AT))
    if not isinstance(images, list | tuple) and len(images):
        first = as_array(unpacked(image_of(images[0]), channels))
        indices = [] if first is None or not needs_range(first) else range(0, len(images), step)
    with seeded(0, "range"):
        for i in indices:
            raw = image_of(images[i], i)
            array = as_array(raw if i % step else unpacked(raw, channels))
            if array is not None:
                yield array


def _check_finished(images: Sequence[Any], preprocessing: Preprocessing, value_range: str | None) -> None:
    """Check finished inputs that are in memory before anything is done with them."""
    if value_range != NORMALISED:
        return
    if isinstance(images, Tensor | np.ndarray):
        if is_float(images):
            _checked(images, preprocessing, single=images.ndim < 4)
    elif isinstance(images, list | tuple):
        for image in images:
            if (array := as_array(image_of(image))) is not None and is_float(array):
                _checked(array, preprocessing)


def _checked(array: Array, preprocessing: Preprocessing, where: str = "", *, single: bool = True) -> Tensor:
    """Return a normalised image, or a batch, as float32; raises InputError if the backbone does not take it."""
    values = torch.from_numpy(finished(array, preprocessing.channels))
    batch = values[None] if single else values
    check_finished(batch.shape, bool(batch.isfinite().all()), preprocessing.shape[0], preprocessing.size, where)
    return values
