"""A backbone whose features are its images: learners run their own code on features that are given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset

from continual.backbones.base import FrozenBackbone, SharedStem
from continual.backbones.loading import Backbone
from continual.data.inputs import ExperienceData
from continual.data.preprocessing import Preprocessing

#: rows that are stored, and come again with every class's own mean
STORED = 2**14


class Given(FrozenBackbone):
    """Features (B, 3 side^2) of images (B, 3, side, side): their numbers."""

    def __init__(self, side: int) -> None:
        super().__init__()
        self.network, self.width, self.depth, self.image_size = nn.Identity(), 3 * side**2, 1, (side, side)
        self.network.register_parameter("unused", nn.Parameter(torch.zeros(1)))  # says the device
        self.freeze()

    @property
    def stages(self) -> list[nn.Module]:
        return [self.network]

    def stem(self, images: Tensor, prompts: Tensor | None = None, reads: int = 0) -> SharedStem:
        raise NotImplementedError

    def features(self, images: Any, adapters: Any = None, **_: Any) -> Tensor:
        found: Tensor = self.network(images).flatten(1)
        return found

    def block_tokens(self, images: Tensor, blocks: int, *, patches: bool = True, until: int | None = None) -> Tensor:
        return self.features(images)


def backbone(side: int) -> Backbone:
    """Return it as learners take it; features are of width 3 side^2."""
    prepared = Preprocessing(size=(side, side), mean=(0.5,) * 3, std=(0.5,) * 3)
    return Backbone(Given(side), "given", {}, prepared, None)


class Stored(Dataset[tuple[Tensor, int]]):
    """So many images of so many classes in turn: the class's mean and one of the stored rows."""

    def __init__(self, images: int, classes: int, side: int, first: int = 0) -> None:
        draw = torch.Generator().manual_seed(first)
        self.rows = torch.randn(STORED, 3, side, side, generator=draw)
        self.means = torch.randn(classes, 3, side, side, generator=draw).mul_(0.3)
        self.images, self.first = images, first

    def __len__(self) -> int:
        return self.images

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[tuple[Tensor, int]]:
        which = torch.tensor(indices)
        labels = which % len(self.means)
        found = self.rows[(which * 7919 + which // len(self.means)) % STORED] + self.means[labels]
        return [*zip(found, (labels + self.first).tolist(), strict=True)]

    def experience(self) -> ExperienceData:
        """Return it as an experience of classes `first`, `first` + 1, …"""
        return ExperienceData(self, self, [self.first + index % len(self.means) for index in range(self.images)])
