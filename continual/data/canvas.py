"""One picture as the inputs of several backbones: each prepared in its own way, and all in one tensor.

Every input lies in the middle of a canvas of the largest side, with zeros around it, and the canvases lie one after
the other on the channel axis. Rotating or mirroring the tensor does so to each input, bit for bit; so whatever takes
prepared images takes these.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad
from torchvision.transforms import v2

from continual.data.preprocessing import Preprocessing
from continual.errors import BackboneError


@dataclass(frozen=True)
class JoinedPreprocessing(Preprocessing):
    """What several backbones ask of one picture; `size` is the canvas's, `mean` and `std` are those of all in a row."""

    parts: tuple[Preprocessing, ...] = ()

    @classmethod
    def of(cls, parts: Sequence[Preprocessing]) -> JoinedPreprocessing:
        """Join them; raises BackboneError for inputs that do not fit into the middle of one canvas."""
        if len({part.channels for part in parts}) > 1:
            counts = ", ".join(str(part.channels) for part in parts)
            raise BackboneError(f"backbones side by side read one picture, but these take {counts} channels of it")
        sizes = [part.size for part in parts]
        if len(set(sizes)) > 1 and (any(h != w for h, w in sizes) or len({h % 2 for h, _ in sizes}) > 1):
            shown = ", ".join(f"{h} x {w}" for h, w in sizes)
            raise BackboneError(
                f"backbones side by side take images of {shown} px: give an img_size, so that all are square with "
                "sides that differ by even numbers (then one lies in the middle of the other), or all of one size"
            )
        mean, std = (tuple(v for part in parts for v in getattr(part, name)) for name in ("mean", "std"))
        return cls(max(sizes), mean, std, parts=tuple(parts))

    @property
    def channels(self) -> int:
        return self.parts[0].channels

    def evaluation(self) -> v2.Compose:
        return v2.Compose([_Canvases(tuple(part.evaluation() for part in self.parts), self.size)])

    def training(self) -> v2.Compose:
        """Like `evaluation`, with one random crop and mirror for all, drawn from torch's global generator."""
        return v2.Compose([_Canvases(tuple(part.training() for part in self.parts), self.size)])

    @property
    def posed(self) -> bool:
        return self.parts[0].posed

    def for_a_group(self) -> Preprocessing:
        return replace(self, parts=tuple(part.for_a_group() for part in self.parts))

    def cut(self, images: Tensor) -> list[Tensor]:
        """Return each backbone's own input (B, C, H_k, W_k) of images (B, K C, H, W)."""
        each = images.split([part.shape[0] for part in self.parts], 1)
        return [_middle(planes, part.size) for planes, part in zip(each, self.parts, strict=True)]


@dataclass(frozen=True)
class _Canvases:
    """A picture -> the inputs (C, H_k, W_k) of all `views`, each on its canvas: (K C, size)."""

    views: tuple[Callable[[Any], Tensor], ...]
    size: tuple[int, int]

    def __call__(self, image: Any) -> Tensor:
        state, planes = torch.get_rng_state(), []
        for view in self.views:
            torch.set_rng_state(state)
            found = view(image)
            top, left = ((have - own) // 2 for have, own in zip(self.size, found.shape[-2:], strict=True))
            planes.append(pad(found, (left, left, top, top)))
        return torch.cat(planes)


def _middle(planes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return the middle of canvases (B, C, H, W)."""
    top, left = ((have - own) // 2 for have, own in zip(planes.shape[-2:], size, strict=True))
    return planes[..., top : top + size[0], left : left + size[1]]
