"""Features of images under a learner's backbone, of a whole data set, and the running class means built from them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from continual import distributed
from continual.adapters import Adapters
from continual.backbones import Backbone
from continual.data import Label, evaluation_loader
from continual.errors import LearningError
from continual.feature_cache import FeatureCache
from continual.trunk import Prefix

if TYPE_CHECKING:
    from continual.training import Progress


class FeatureMaker:
    """What gives a learner features of images; the precision is that of its settings."""

    backbone: Backbone
    settings: Any
    device: torch.device

    def prefix(self, images: Tensor, prompts: Tensor | None = None) -> Prefix:
        """Return what the features of prepared images under any adapters have in common; see `FrozenViT.prefix`."""
        with self._autocast():
            return self.backbone.trunk.prefix(images, prompts)

    def features(self, images: Tensor | Prefix, adapters: Adapters | None = None, **options: Any) -> Tensor:
        """Return features (B, D), under the precision of the settings; arguments as in `FrozenViT.features`."""
        with self._autocast():
            return self.backbone.trunk.features(images, adapters, **options)

    def frozen_features(self, images: Tensor, cache: FeatureCache | None = None) -> Tensor:
        """Return features (B, D) without adapters, from `cache` where it has them."""
        if cache is None:
            return self.features(images)
        return cache.features(images, ["frozen"] * len(images), lambda rows: self.features(images[rows]))

    def _autocast(self) -> AbstractContextManager[Any]:
        lower = self.settings.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16) if lower else nullcontext()


def extract(
    dataset: Any,
    compute: Callable[[Tensor, Sequence[Label]], Sequence[Tensor]],
    *,
    batch_size: int,
    device: torch.device,
    progress: Progress | None = None,
    stage: str = "collecting features",
    workers: int = 0,
) -> tuple[list[Tensor], list[Label]]:
    """Run `compute(images, labels) -> several (B, D)` over the evaluation view of a data set.

    Returns each of its results joined over the data set, (n, D), and the labels (n). No gradients. Raises
    LearningError if a result is not finite.
    """
    parts: list[tuple[Sequence[Tensor], Sequence[Label]]] = []
    done = 0
    with torch.no_grad():
        for images, labels in evaluation_loader(dataset, batch_size, num_workers=workers):
            parts.append((list(compute(images.to(device), labels)), labels))
            done = min(done + distributed.count() * len(labels), len(dataset))
            if progress is not None:
                progress(stage, done, len(dataset), {})
    columns, names = zip(*distributed.in_turn(parts), strict=True)
    joined = [torch.cat([values.to(device) for values in column]) for column in zip(*columns, strict=True)]
    if not all(torch.isfinite(values).all() for values in joined):
        raise LearningError(
            "features of the training images are NaN or infinite: the adapters diverged (lower lr) or the "
            "images hold such values; the learner is as it was before"
        )
    return joined, [label for labels in names for label in labels]


def updated_means(
    means: Tensor | None, counts: Tensor | None, features: Tensor, targets: Tensor, classes: int
) -> tuple[Tensor, Tensor]:
    """Return class means (C, D) and counts (C,) after adding `features` (n, D) with class indices (n,).

    `means` and `counts` are those so far, of the first classes, or None.
    """
    total = features.new_zeros(classes, features.shape[1])
    count = torch.zeros(classes, dtype=torch.int64, device=features.device)
    if means is not None and counts is not None:
        total[: len(means)] = means * counts[:, None]
        count[: len(counts)] = counts
    total.index_add_(0, targets, features)
    count += torch.bincount(targets, minlength=classes)
    return total / count[:, None], count
