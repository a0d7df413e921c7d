"""How group elements transform points and boxes, for detection and pose.

Coordinates are (x, y), x to the right and y down; the picture is the rectangle from (0, 0) to (width, height), so pixel
(i, j) has its centre at (j + ½, i + ½). If your coordinates count pixel centres from 0 instead, give `height=H - 1,
width=W - 1`; if they lie in [0, 1], give 1 and 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from equivariant.actions import Action, motion_of, turn_vectors
from equivariant.errors import InputError
from equivariant.groups import FiniteGroup
from equivariant.motions import Motion
from equivariant.sampling import check_square


@dataclass(frozen=True)
class Keypoints(Action):
    """Points (…, 2) in a picture of `height` x `width`."""

    permutes: ClassVar[bool] = False
    height: float
    width: float

    def __call__(self, group: FiniteGroup, g: int, x: Tensor) -> Tensor:
        _check(x, 2, "points")
        return self._move(motion_of(group, g), x)

    def _move(self, motion: Motion, points: Tensor) -> Tensor:
        check_square(motion, self.height, self.width)
        centre = points.new_tensor([self.width / 2, self.height / 2])
        return turn_vectors(points - centre, motion) + centre


@dataclass(frozen=True)
class Boxes(Keypoints):
    """Boxes (…, 4) as x0, y0, x1, y1. Only right angles and mirrors keep them along the axes: others are refused."""

    def __call__(self, group: FiniteGroup, g: int, x: Tensor) -> Tensor:
        _check(x, 4, "boxes")
        motion = motion_of(group, g)
        if not motion.exact:
            raise InputError(f"{motion.name} makes boxes slanted: use a group of right angles, or Keypoints")
        corners = self._move(motion, x.unflatten(-1, (2, 2)))
        return torch.cat([corners.amin(-2), corners.amax(-2)], dim=-1)


def _check(x: Tensor, size: int, what: str) -> None:
    if x.ndim < 2 or x.shape[-1] != size or not x.is_floating_point():
        raise InputError(f"{what} are floating-point (…, {size}), but this tensor is {x.dtype} {tuple(x.shape)}")
