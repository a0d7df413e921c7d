"""How an image becomes the backbone's input, for training (augmented) and for evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2


@dataclass(frozen=True)
class Preprocessing:
    """Sizes, statistics and augmentation. The defaults of the augmentation are those of MOS's protocol.

    Evaluation resizes the shorter side to size / crop_pct (both sides, if size is not square) and crops the centre.
    Training takes a random resized crop (`crop_scale` of the area, ratio 3/4 to 4/3) and mirrors half of the images
    left-right; `augment=False` trains on the evaluation view.
    """

    size: tuple[int, int]  #: (height, width) in pixels
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    interpolation: str = "bicubic"
    crop_pct: float = 0.875
    crop_scale: tuple[float, float] = (0.05, 1.0)
    mirror: bool = True
    augment: bool = True

    @classmethod
    def changeable(cls) -> set[str]:
        """Names of the fields that do not follow from the model."""
        return {f.name for f in fields(cls)} - {"size"}

    @classmethod
    def from_json(cls, values: Mapping[str, Any]) -> Preprocessing:
        """Rebuild from `dataclasses.asdict` after a trip through JSON (lists become tuples)."""
        if unknown := values.keys() - {f.name for f in fields(cls)}:
            raise ValueError(f"preprocessing has no {', '.join(sorted(unknown))}")
        plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
        return cls(**plain)

    def _to_input(self) -> list[v2.Transform]:
        return [v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(self.mean, self.std)]

    def evaluation(self) -> v2.Compose:
        """PIL image or uint8 tensor (3, H, W) -> float tensor (3, size)."""
        mode = v2.InterpolationMode(self.interpolation)
        height, width = (int(side / self.crop_pct) for side in self.size)  # rounded down, like timm
        size = height if height == width else [height, width]
        return v2.Compose([v2.Resize(size, interpolation=mode), v2.CenterCrop(self.size), *self._to_input()])

    def training(self) -> v2.Compose:
        """Like `evaluation`, with random crops and mirrors drawn from torch's global generator."""
        if not self.augment:
            return self.evaluation()
        mode = v2.InterpolationMode(self.interpolation)
        crop = v2.RandomResizedCrop(self.size, scale=self.crop_scale, interpolation=mode)
        return v2.Compose([crop, *([v2.RandomHorizontalFlip()] if self.mirror else []), *self._to_input()])

    def check(self, images: Tensor) -> None:
        """Raise ValueError unless `images` is a finite float batch of the model's size."""
        if images.ndim != 4 or tuple(images.shape[1:]) != (3, *self.size):
            raise ValueError(
                f"the backbone takes (B, 3, {self.size[0]}, {self.size[1]}), got {tuple(images.shape)}: pass "
                "uint8 tensors, PIL images or paths to have them resized and normalised"
            )
        if not torch.isfinite(images).all():
            raise ValueError("the images hold NaN or infinite values: remove or repair them first")
