"""How an image becomes the backbone's input, for training (augmented) and for evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from continual.data import framing


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

    @property
    def channels(self) -> int:
        """C, how many channels a picture has for the backbone: a mean for each."""
        return len(self.mean)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of an input that is prepared."""
        return len(self.mean), *self.size

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
        to_floats = [v2.ToImage(), v2.Lambda(_clamped), v2.ToDtype(torch.float32, scale=True)]
        return [*to_floats, v2.Normalize(self.mean, self.std)]

    def evaluation(self) -> v2.Compose:
        """PIL image, uint8 tensor (C, H, W) or float tensor from 0 to 1 -> float tensor (C, size)."""
        mode = v2.InterpolationMode(self.interpolation)
        height, width = (int(side / self.crop_pct) for side in self.size)  # rounded down, like timm
        size = height if height == width else [height, width]
        resize = v2.Resize(size, interpolation=mode)
        return v2.Compose([_middle, resize, v2.CenterCrop(self.size), *self._to_input()])

    def training(self) -> v2.Compose:
        """Like `evaluation`, with random crops and mirrors drawn from torch's global generator."""
        if not self.augment:
            return self.evaluation()
        mode = v2.InterpolationMode(self.interpolation)
        crop = v2.RandomResizedCrop(self.size, scale=self.crop_scale, interpolation=mode)
        return v2.Compose([crop, *([v2.RandomHorizontalFlip()] if self.mirror else []), *self._to_input()])

    @property
    def posed(self) -> bool:
        """Whether a rotated or mirrored picture becomes the rotated or mirrored input, bit for bit."""
        return False

    def for_a_group(self) -> Preprocessing:
        """Return the same for a model with a group, see `continual.data.framing`; training's views stay random."""
        return _Posed(**{field.name: getattr(self, field.name) for field in fields(self)})

    def check(self, images: Tensor) -> None:
        """Raise ValueError unless `images` is a finite float batch of the model's size."""
        if images.ndim != 4 or tuple(images.shape[1:]) != self.shape:
            raise ValueError(
                f"the backbone takes (B, {', '.join(map(str, self.shape))}), got {tuple(images.shape)}: "
                "pass uint8 tensors, PIL images or paths to have them resized and normalised, or say with value_range "
                "what the numbers mean"
            )
        if not torch.isfinite(images).all():
            raise ValueError("the images hold NaN or infinite values: remove or repair them first")


class _Posed(Preprocessing):
    @property
    def posed(self) -> bool:
        return True

    def evaluation(self) -> v2.Compose:
        return v2.Compose([_middle, self._framed, *self._to_input()])

    def _framed(self, image: Image.Image | Tensor) -> Tensor:
        """Return an image as uint8 (3, size), resized and cut out in its pose."""
        whole = image.permute(1, 2, 0).numpy() if isinstance(image, Tensor) else np.asarray(image)
        pose = framing.pose_of(whole, square=self.size[0] == self.size[1])
        turned = pose.turn(whole).copy()  # its strides may be negative, even of a side of one pixel
        here = torch.from_numpy(turned).permute(2, 0, 1) if isinstance(image, Tensor) else Image.fromarray(turned)
        resized = framing.sides(turned.shape[:2], self.size, self.crop_pct, even=True)
        here = v2.functional.resize(here, [*resized], v2.InterpolationMode(self.interpolation))
        cut = v2.functional.to_image(v2.functional.center_crop(here, [*self.size]))
        found: Tensor = pose.back().turn(cut.permute(1, 2, 0)).permute(2, 0, 1).contiguous()
        return found


def _middle(image: Image.Image | Tensor) -> Image.Image | Tensor:
    have = tuple(image.shape[-2:]) if isinstance(image, Tensor) else image.size[::-1]
    if min(have, default=0) == 0 or max(have) <= framing.MOST_RATIO * min(have):
        return image
    found: Image.Image | Tensor = v2.functional.crop(image, *framing.middle(have))
    return found


def _clamped(image: Tensor) -> Tensor:
    """Return floats within 0 and 1, which bicubic resizing exceeds at edges; bytes are cut off as they are resized."""
    return image.clamp(0, 1) if image.is_floating_point() else image
