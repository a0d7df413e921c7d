"""What scores features per class: a linear head, or the cosine to prototypes, the mean feature of each class."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from continual.statistics.fields import per_class, placed


@dataclass(frozen=True)
class Head:
    """A linear head: logits (B, C) of features (B, D), by one row of weights, and a bias, per class."""

    weight: Tensor = per_class()  #: (C, D)
    bias: Tensor = per_class()  #: (C,)

    def __call__(self, features: Tensor) -> Tensor:
        """Return the logits."""
        return F.linear(features, self.weight, self.bias)


def cosine_scores(features: Tensor, prototypes: Tensor) -> Tensor:
    """Return the cosine of every feature (B, D) with every prototype (C, D): (B, C)."""
    return F.normalize(features, dim=-1) @ F.normalize(prototypes, dim=-1).mT


@dataclass(frozen=True)
class CosineHead(Head):
    """Logits (B, C): cosines of features (B, D) to rows of weights, times a fixed `sharpness`; there is no bias."""

    sharpness: float = 1.0

    def __call__(self, features: Tensor) -> Tensor:
        return self.sharpness * cosine_scores(features, self.weight)


@dataclass(frozen=True)
class Prototypes:
    """The mean feature of each of C classes, and of how many images it is the mean; several sets have leading axes."""

    mean: Tensor = per_class(axis=-2)  #: (..., C, D)
    count: Tensor = per_class(axis=-1)  #: (..., C) int64

    def check_shapes(self) -> None:
        """Raise ValueError unless there is a count for every mean."""
        if self.mean.shape[:-1] != self.count.shape:
            raise ValueError(f"mean is of shape {tuple(self.mean.shape)}, and count of {tuple(self.count.shape)}")


class PrototypeSums:
    """Sums of features, in batches of any size, from which prototypes of all `classes` follow."""

    def __init__(self, before: Prototypes | None, classes: int) -> None:
        self.before, self.classes = before, classes
        self.total: Tensor | None = None  #: (C, D), with the first features
        self.count: Tensor | None = None  #: (C,) int64

    def add(self, features: Tensor, targets: Tensor) -> None:
        """Add features (n, D) with class indices (n,)."""
        if self.total is None or self.count is None:
            self.total = features.new_zeros(self.classes, features.shape[1])
            self.count = torch.zeros(self.classes, dtype=torch.int64, device=features.device)
            if (before := self.before) is not None:
                self.total[: len(before.mean)] = before.mean * before.count[:, None]
                self.count[: len(before.count)] = before.count
        self.total.index_add_(0, targets, features)
        self.count += torch.bincount(targets, minlength=self.classes)

    def prototypes(self) -> Prototypes:
        """Return the means, once there are features."""
        assert self.total is not None
        assert self.count is not None
        return Prototypes(self.total / self.count[:, None], self.count)


def updated(before: Prototypes | None, features: Tensor, targets: Tensor, classes: int) -> Prototypes:
    """Return the prototypes of all `classes` after adding `features` (n, D) with class indices (n,)."""
    sums = PrototypeSums(before, classes)
    sums.add(features, targets)
    return sums.prototypes()


def joined_prototypes(parts: Sequence[Prototypes], places: Sequence[Tensor]) -> Prototypes:
    """Return the means of all images of several sets, whose classes are at `places` (C_m,) among those of all."""
    classes = 1 + max(int(at.max()) for at in places)
    whole = [placed(part, at, classes) for part, at in zip(parts, places, strict=True)]
    count = torch.stack([part.count for part in whole])
    total = (torch.stack([part.mean for part in whole]).double() * count[..., None]).sum(0)
    return Prototypes((total / count.sum(0)[..., None]).to(parts[0].mean), count.sum(0))
