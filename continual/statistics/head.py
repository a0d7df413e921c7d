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
class Prototypes:
    """The mean feature of each of C classes, and of how many images it is the mean; several sets have leading axes."""

    mean: Tensor = per_class(axis=-2)  #: (..., C, D)
    count: Tensor = per_class(axis=-1)  #: (..., C) int64

    def check_shapes(self) -> None:
        """Raise ValueError unless there is a count for every mean."""
        if self.mean.shape[:-1] != self.count.shape:
            raise ValueError(f"mean is of shape {tuple(self.mean.shape)}, and count of {tuple(self.count.shape)}")


def updated(before: Prototypes | None, features: Tensor, targets: Tensor, classes: int) -> Prototypes:
    """Return the prototypes of all `classes` after adding `features` (n, D) with class indices (n,)."""
    total = features.new_zeros(classes, features.shape[1])
    count = torch.zeros(classes, dtype=torch.int64, device=features.device)
    if before is not None:
        total[: len(before.mean)] = before.mean * before.count[:, None]
        count[: len(before.count)] = before.count
    total.index_add_(0, targets, features)
    count += torch.bincount(targets, minlength=classes)
    return Prototypes(total / count[:, None], count)


def joined_prototypes(parts: Sequence[Prototypes], places: Sequence[Tensor]) -> Prototypes:
    """Return the means of all images of several sets, whose classes are at `places` (C_m,) among those of all."""
    classes = 1 + max(int(at.max()) for at in places)
    whole = [placed(part, at, classes) for part, at in zip(parts, places, strict=True)]
    count = torch.stack([part.count for part in whole])
    total = (torch.stack([part.mean for part in whole]).double() * count[..., None]).sum(0)
    return Prototypes((total / count.sum(0)[..., None]).to(parts[0].mean), count.sum(0))
