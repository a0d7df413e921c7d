"""Transform the last two axes of a tensor by a motion: exactly for right angles, interpolated otherwise."""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from equivariant.errors import InputError
from equivariant.motions import Motion

Interpolation = Literal["bilinear", "bicubic", "nearest"]
Padding = Literal["zeros", "border", "reflection"]
INTERPOLATIONS, PADDINGS = get_args(Interpolation), get_args(Padding)


def check_square(motion: Motion, height: float, width: float) -> None:
    """Raise InputError if the motion would change the shape of a picture of this size."""
    if motion.needs_square and height != width:
        raise InputError(
            f"{motion.name} needs a square, not {height:g} x {width:g}: crop or pad to a square, or use a group "
            f"without rotations by 90° (C2, mirror_h, mirror_v, D2)"
        )


def move(x: Tensor, motion: Motion, interpolation: Interpolation = "bilinear", padding: Padding = "zeros") -> Tensor:
    """Return `x` (…, H, W) transformed: (g·x)(p) = x(g⁻¹p), about the centre of the picture.

    By right angles values only change places, bit for bit, in any dtype. By other angles they are interpolated
    (integers and booleans always by the nearest value), and `padding` says what lies outside. Raises InputError if
    H ≠ W and the motion does not keep the shape.
    """
    check_square(motion, *x.shape[-2:])
    if motion.quarters is None:
        return _interpolate(x, motion, interpolation, padding)
    return moved_exactly(x, motion)


def moved_exactly(x: Tensor, motion: Motion) -> Tensor:
    """Return `x` (…, H, W) by right angles and mirrors, of any shape: (…, W, H) after one or three right angles."""
    x = x.flip(-1) if motion.mirror else x
    return x.rot90(motion.quarters, (-2, -1)) if motion.quarters else x


def _interpolate(x: Tensor, motion: Motion, interpolation: Interpolation, padding: Padding) -> Tensor:
    work = x.to(torch.promote_types(x.dtype, torch.float32) if x.is_floating_point() else torch.float64)
    mode = interpolation if x.is_floating_point() else "nearest"
    (a, b), (c, d) = motion.matrix()
    # The grid says where each output pixel is read: at g⁻¹p, and the inverse of an orthogonal matrix is its transpose.
    inverse = work.new_tensor([[[a, c, 0.0], [b, d, 0.0]]])
    flat = work.reshape(1, -1, *work.shape[-2:])
    grid = functional.affine_grid(inverse, list(flat.shape), align_corners=False)
    found = functional.grid_sample(flat, grid, mode=mode, padding_mode=padding, align_corners=False)
    return found.reshape(x.shape).to(x.dtype)


def crop_circle(x: Tensor) -> Tensor:
    """Return `x` (…, H, W) with zeros outside the inscribed circle, which no rotation carries out of the picture."""
    height, width = x.shape[-2:]
    rows = torch.arange(height, device=x.device) * 2 + 1 - height
    columns = torch.arange(width, device=x.device) * 2 + 1 - width
    inside = rows[:, None] ** 2 + columns[None, :] ** 2 <= min(height, width) ** 2
    return x * inside if x.dtype != torch.bool else x & inside
