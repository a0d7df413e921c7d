"""Images of files, opened and prepared once for all methods, seeds and evaluations of a run, in memory."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor
from torch.utils.data import Dataset, get_worker_info

from continual.data.images import LIMIT
from continual.data.inputs import ExperienceData, PreparedImages
from continual.datasets.streams import Experience
from continual.learning.learner import IncrementalLearner


class PreparedOnce:
    """Prepared images as they are, by file and preprocessing, up to `limit` bytes; loading processes keep none.

    `saved` is how many seconds were saved so far, by what opening and preparing the same images took.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit, self.held, self.saved = limit, 0, 0.0
        self._kept: dict[Any, tuple[Tensor, float]] = {}

    def evaluated(self, data: ExperienceData) -> ExperienceData:
        """Return an experience whose images, for statistics, are prepared once."""
        own = data.evaluation
        return replace(data, evaluation=_Once(own, self)) if isinstance(own, PreparedImages) else data

    def asked(self, experience: Experience, learner: IncrementalLearner[Any]) -> Any:
        """Return an experience's test images as `predict` takes them, prepared for a learner."""
        images, known = experience.test_images, learner.state.value_range
        if not (isinstance(images, list) and images and all(isinstance(image, str | Path) for image in images)):
            return images
        labels = experience.test_labels
        return _Once(PreparedImages(images, labels, learner.preprocessing, augment=False, value_range=known), self)

    def item(self, dataset: PreparedImages, index: int) -> tuple[Tensor, Any]:
        """Return an item of a data set, whose image is kept if it is a file."""
        raw = dataset.images[index]
        if not isinstance(raw, str | Path) or get_worker_info() is not None:
            return dataset[index]
        key = str(raw), repr(dataset.preprocessing), dataset.value_range  # fields from a config may be lists
        if key in self._kept:
            image, seconds = self._kept[key]
            self.saved += seconds
            return image, dataset.labels[index]
        started = time.perf_counter()
        image, label = dataset[index]
        if self.held + image.nbytes <= self.limit:
            self._kept[key] = image, time.perf_counter() - started
            self.held += image.nbytes
        return image, label


@dataclass(frozen=True)
class _Once(Dataset[tuple[Tensor, Any]]):
    dataset: PreparedImages  #: by this name it is known for finished inputs
    kept: PreparedOnce

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        return self.kept.item(self.dataset, index)
