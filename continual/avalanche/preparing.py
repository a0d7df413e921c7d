"""Streams whose images are not the backbone's inputs yet: prepared as `IncrementalLearner.learn` prepares them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from avalanche.benchmarks.utils import TransformGroups
from torch import Tensor

from continual.data.arrays import as_array, is_float
from continual.data.data_sets import ImageColumn
from continual.data.inputs import prepared, range_of
from continual.data.preprocessing import Preprocessing
from continual.data.ranges import NORMALISED, ValueRange


@dataclass(frozen=True)
class Prepare:
    """Makes one image of a stream the backbone's input, in the loader's processes too."""

    preprocessing: Preprocessing
    transform: Any
    value_range: str | None

    def __call__(self, image: Any) -> Tensor:
        return prepared(image, "of the stream", self.preprocessing, self.transform, self.value_range)


def prepared_stream(
    dataset: Any, preprocessing: Preprocessing, *, augment: bool, stated: ValueRange | None, remembered: str | None
) -> tuple[Any, str | None]:
    """Return an experience's data set of finished inputs, and what the numbers of its images meant.

    A stream of normalised images comes back as it is. For all else (PIL images, uint8, `ToTensor` alone) the backbone's
    preprocessing follows the stream's own transform, in training with the augmentation of `learn`.
    """
    if len(dataset) == 0:
        return dataset, remembered
    images = ImageColumn(dataset)
    name, first = range_of(images, stated, remembered), as_array(images[0])
    if first is not None and is_float(first) and name == NORMALISED:
        return dataset, name
    transform = preprocessing.training() if augment else preprocessing.evaluation()
    prepare = Prepare(preprocessing, transform, name)
    groups = TransformGroups({"train": prepare, "eval": prepare}, current_group="train" if augment else "eval")
    return type(dataset)([dataset], transform_groups=groups), name
