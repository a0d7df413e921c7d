"""The unlabelled images that a backbone is resized by."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset

from continual.backbones.loading import Backbone
from continual.data.inputs import PreparedImages, range_of, to_predict
from continual.data.loaders import evaluation_loader
from continual.data.ranges import ValueRange
from continual.errors import InputError
from continual.seeding import generator

#: fewer say too little of what enters a layer
LEAST_IMAGES = 20


class Unlabelled:
    """Images of anything, as `predict` takes them, prepared for a backbone."""

    def __init__(
        self, images: Any, backbone: Backbone, value_range: ValueRange | None = None, least: int = LEAST_IMAGES
    ) -> None:
        """Raise InputError for fewer than `least`."""
        own = backbone.preprocessing
        found = to_predict(images, own.channels)
        if len(found) < least:
            raise InputError(
                f"{len(found)} images are too few: give {least} at least, better some thousands, of anything "
                "like what the backbone is for; labels are not needed"
            )
        name = range_of(found, value_range, channels=own.channels)
        labels = [0] * len(found)
        self.training: Dataset[Any] = PreparedImages(found, labels, own, augment=True, value_range=name)
        self.evaluation: Dataset[Any] = PreparedImages(found, labels, own, augment=False, value_range=name)
        self.count = len(found)

    def batches(self, most: int, size: int, seed: int, workers: int) -> Iterator[Tensor]:
        """Yield at most so many of the images as they are, in batches (B, C, H, W); which, the seed says."""
        rows = torch.randperm(self.count, generator=generator(seed, "images that are looked at"))[:most].tolist()
        for images, _ in evaluation_loader(Subset(self.evaluation, rows), size, num_workers=workers):
            yield images
