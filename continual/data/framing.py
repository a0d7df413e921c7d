"""How a picture is resized and cut to a model's input: sides, margins, and the pose in which that is done.

Numbers and numpy alone, as it is part of the stand-alone runner: see `continual.export.standalone`.

A model with a group answers alike for a picture and its quarter turns and mirror images. Resizing rounds along one axis
before the other, and a margin that is odd has a longer side, so a rotated file would not give the rotated input. With a
group, pictures are therefore resized in one pose that their content decides, whichever they were given in, and the
result is transformed back; and margins are even, so that the cut lies in the middle.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

MOST_RATIO = 32  #: of the longer side to the shorter; of a longer picture the middle is taken


@dataclass(frozen=True)
class Pose:
    """How a picture was transformed: its axes swapped first, if so, then its rows and its columns reversed."""

    swapped: bool = False
    rows: bool = False
    columns: bool = False

    def turn(self, pixels: Any) -> Any:
        """Return an array or tensor (H, W, ...) in this pose."""
        pixels = pixels.swapaxes(0, 1) if self.swapped else pixels
        reversed_ = tuple(axis for axis, wanted in enumerate((self.rows, self.columns)) if wanted)
        return np.flip(pixels, reversed_) if isinstance(pixels, np.ndarray) else pixels.flip(reversed_)

    def back(self) -> Pose:
        """Return the pose that undoes this one."""
        return Pose(True, self.columns, self.rows) if self.swapped else self


def middle(have: Sequence[int]) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of what is looked at of a picture (height, width): all, if it is no thread.

    Otherwise a short side that grows to the model's would take the long one with it, beyond any memory.
    """
    short = min(have)
    height, width = (side if side <= MOST_RATIO * short else _alike(MOST_RATIO * short, side) for side in have)
    return (have[0] - height) // 2, (have[1] - width) // 2, height, width


def sides(have: Sequence[int], size: Sequence[int], crop_pct: float, *, even: bool = False) -> tuple[int, int]:
    """Return (height, width) to which a picture (height, width) is resized, before `size` is cut out of its middle.

    The shorter side becomes size / crop_pct, rounded down like timm; both, if that is not square. With `even`, they
    differ from `size` by even numbers.

    >>> sides((85, 64), (56, 56), 0.875), sides((85, 64), (56, 56), 0.875, even=True)
    ((85, 64), (86, 64))
    """
    wanted = [int(side / crop_pct) for side in size]
    if wanted[0] == wanted[1]:
        short, long = sorted(have)
        near = _alike(wanted[0], size[0]) if even else wanted[0]
        far = int(near * long / short)
        wanted = [near, far] if have[0] <= have[1] else [far, near]
    height, width = (_alike(side, cut) for side, cut in zip(wanted, size, strict=True)) if even else wanted
    return height, width


def _alike(number: int, other: int) -> int:
    """Return a number or the next one, so that it is odd where the other is."""
    return number + (number + other) % 2


def pose_of(pixels: np.ndarray, *, square: bool) -> Pose:
    """Return the pose in which the pixels (H, W, ...) come first in the order of their bytes, and upright ones first.

    A picture and its turns by the group of the square, or only by mirrors if the model's input is not `square`, look
    the same in their poses.
    """
    height, width = pixels.shape[:2]
    swaps = [False] if not square else [height > width] if height != width else [False, True]
    poses = [Pose(swap, rows, columns) for swap in swaps for rows in (False, True) for columns in (False, True)]
    views = [pose.turn(pixels) for pose in poses]
    for row in range(views[0].shape[0]):
        lines = [view[row].tobytes() for view in views]
        first = min(lines)
        kept = [place for place, line in enumerate(lines) if line == first]
        poses, views = [poses[place] for place in kept], [views[place] for place in kept]
        if len(poses) == 1:
            break
    return poses[0]
