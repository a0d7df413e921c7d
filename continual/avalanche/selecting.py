"""Selection of images for Avalanche's buffers of exemplars, by what a frozen backbone says of them.

policy = ParametricBuffer(max_size=200, groupby="class", selection_strategy=PoolSelection(backbone))
strategy = SupervisedTemplate(..., plugins=[ReplayPlugin(200, storage_policy=policy)])
"""

from __future__ import annotations

from typing import Any

import torch
from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.training.storage_policy import ExemplarsSelectionStrategy

from continual.avalanche.preparing import prepared_stream
from continual.backbones.loading import Backbone
from continual.backbones.patches import check_attends
from continual.data.loaders import collate
from continual.data.ranges import ValueRange
from continual.errors import InputError
from continual.learning.extractor import Extractor
from continual.learning.pool import chosen, reader
from continual.seeding import generator
from continual.selection import RULES
from continual.selection.base import selected


class PoolSelection(ExemplarsSelectionStrategy):
    """Sorts a group's images by how well they stand for it; the last are the first to go.

    `by` is a selection rule ("herding", which was best for exemplars, "random"; see `equimos list selection`), "image"
    (k-means, see `continual.select`) or "patterns" (FreeSel). Of k-means fewer are not the first of more: give the
    `count` that the buffer is to keep of a group, images beyond it follow by how far they are from the centres.
    `value_range` says what numbers in images mean, as for `learn`.
    """

    def __init__(
        self,
        backbone: Backbone,
        by: str = "herding",
        *,
        count: int = 20,
        seed: int = 1993,
        value_range: ValueRange | None = None,
    ) -> None:
        if by not in ("image", "patterns"):
            RULES.get(by)
        elif by == "patterns":
            check_attends(backbone.frozen)
        if count < 1:
            raise InputError(f"count is how many images of a group are kept, at least 1, got {count}")
        self.backbone, self.by, self.count, self.seed, self.value_range = backbone, by, count, seed, value_range

    @torch.no_grad()
    def make_sorted_indices(self, strategy: Any, data: AvalancheDataset) -> list[int]:
        """Return the places of all images of a group, those to keep longest first."""
        stream, _ = prepared_stream(
            data.eval(), self.backbone.preprocessing, augment=False, stated=self.value_range, remembered=None
        )
        backbone = self.backbone.on(torch.device(strategy.device))
        extractor, size = Extractor(backbone, device=torch.device(strategy.device)), strategy.eval_mb_size
        read = reader(extractor, "patterns" if self.by == "patterns" else "image")
        found: list[Any] = []
        for first in range(0, len(data), size):
            images, _ = collate([stream[i] for i in range(first, min(first + size, len(data)))])
            found.append(read(images.to(extractor.device)))
        if self.by == "patterns":
            return chosen(found, len(data), "patterns", self.seed)[0]
        features = torch.cat(found)
        if self.by != "image":
            return selected(self.by, features, len(features), generator(self.seed, "exemplars"))
        first_ones, _ = chosen(found, min(self.count, len(features)), "image", self.seed)
        rest = sorted(set(range(len(features))) - set(first_ones))
        near = torch.cdist(features[rest], features[first_ones]).amin(1) if rest else torch.empty(0)
        return first_ones + [rest[i] for i in near.argsort(stable=True).tolist()]
