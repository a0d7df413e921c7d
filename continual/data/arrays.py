"""One image that is an array or a tensor, of any layout and dtype, as a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from continual.data.ranges import BYTES, NORMALISED, UNIT, ends, fits, range_name
from continual.errors import InputError

Array = np.ndarray | Tensor


def as_array(raw: Any) -> Array | None:
    """Return a numpy array, a tensor, or an array of another library (jax, tensorflow) as one of the first two.

    None if it is none of these.
    """
    if isinstance(raw, Tensor | np.ndarray):
        return raw
    if isinstance(raw, Image.Image) or not (hasattr(raw, "__array__") and hasattr(raw, "shape")):
        return None
    return np.asarray(raw)


def is_float(array: Array) -> bool:
    """Tell whether the numbers are floats."""
    return array.is_floating_point() if isinstance(array, Tensor) else bool(np.issubdtype(array.dtype, np.floating))


def is_integer(array: Array) -> bool:
    """Tell whether the numbers are whole and may lie beyond 255."""
    if isinstance(array, Tensor):
        return not (array.is_floating_point() or array.is_complex() or array.dtype in (torch.uint8, torch.bool))
    return bool(np.issubdtype(array.dtype, np.integer)) and array.dtype != np.uint8


def needs_range(array: Array) -> bool:
    """Tell whether the dtype leaves open what the numbers mean: see `continual.data.ranges`."""
    return is_float(array) or is_integer(array)


def spread(array: Array) -> tuple[float, float] | None:
    """Return the least and the largest number, None of an empty array; raises InputError for NaN and infinity."""
    if 0 in array.shape:
        return None
    low, high = float(array.min()), float(array.max())
    if not (np.isfinite(low) and np.isfinite(high)):
        raise InputError("the images hold NaN or infinite values: remove or repair them first")
    return low, high


def finished(array: Array) -> Tensor:
    """Return a normalised image (C, H, W) or a batch of them as float32 on the CPU; (..., H, W, C) of numpy as well."""
    values = _tensor(array).float()
    channels_last = values.ndim > 2 and isinstance(array, np.ndarray) and values.shape[-1] in (1, 3)
    return values.movedim(-1, -3) if channels_last and values.shape[-3] not in (1, 3) else values


def picture(raw: Any, index: int | str, value_range: str | None = None, channels: int = 3) -> Image.Image | Tensor:
    """Return an image as one in PIL, a uint8 tensor (C, H, W), or a float32 one from 0 to 1, of `channels` channels.

    Layouts are (H, W), (H, W, C) and (C, H, W). Grey becomes RGB and the other way round; a fourth channel beside RGB
    is transparency. Floats and wider integers are read by the range of that name, which must not be "normalised".
    Raises InputError for all else.
    """
    array = as_array(raw)
    if array is None or (layout := _layout(array, channels)) is None or 0 in array.shape:
        raise InputError(_refusal(raw, index, channels))
    if needs_range(array):
        if value_range is None or value_range == NORMALISED:
            raise InputError(f"{_refusal(raw, index, channels)}; other numbers with value_range=(black, white)")
        array = _scaled(array, index, value_range)
    elif array.dtype in (torch.bool, np.bool_):
        array = array * np.uint8(255) if isinstance(array, np.ndarray) else array.to(torch.uint8) * 255
    count = 1 if layout == "HW" else array.shape[0 if layout == "CHW" else -1]
    if is_float(array) or count == channels != 3 or (isinstance(array, Tensor) and count != 4 and channels == 3):
        planes = _planes(_tensor(array), layout)
        return planes.expand(channels, -1, -1) if count == 1 else planes
    pixels = _planes(_tensor(array), layout).permute(1, 2, 0).contiguous().numpy()
    return Image.fromarray(pixels[..., 0] if count == 1 else pixels)


def _layout(array: Array, channels: int) -> str | None:
    """Return "HW", "CHW" or "HWC", or None: numpy's images have the channels last if they can, torch's first.

    A side of four pixels is not taken for four channels in the unusual order.
    """
    allowed = {1, 3, 4} if channels in (1, 3) else {channels}
    if array.ndim == 2:
        return "HW" if 1 in allowed else None
    if array.ndim != 3 or not (needs_range(array) or array.dtype in (torch.uint8, np.uint8, torch.bool, np.bool_)):
        return None
    places = {"CHW": array.shape[0], "HWC": array.shape[2]}
    usual, other = ("CHW", "HWC") if isinstance(array, Tensor) else ("HWC", "CHW")
    if places[usual] in allowed:
        return usual
    return other if places[other] in (allowed if channels == 4 else allowed - {4}) else None


def _planes(values: Tensor, layout: str) -> Tensor:
    if layout == "HW":
        return values[None]
    return values if layout == "CHW" else values.permute(2, 0, 1)


def _scaled(array: Array, index: int | str, name: str) -> Array:
    """Return numbers of a range as uint8, or as float32 from 0 to 1 where the range is none of 8 bits."""
    if (found := spread(array)) and not fits(name, *found):
        raise InputError(
            f"image {index} has numbers from {found[0]:.4g} to {found[1]:.4g}, which is not the range {name!r}: state "
            "another value_range, or repair it"
        )
    low, high = ends(range_name(name))
    values = (_tensor(array).double() - low) / (high - low)
    if name not in (UNIT, BYTES):
        values = values.float().clamp(0, 1)
        return values if isinstance(array, Tensor) else values.numpy()
    pixels = (values * 255).round().clamp(0, 255).to(torch.uint8)
    return pixels if isinstance(array, Tensor) else pixels.numpy()


def _tensor(array: Array) -> Tensor:
    """Return an array as a tensor on the CPU: a copy of numpy's, which may be read-only or have strides below 0."""
    if isinstance(array, Tensor):
        return array.detach().cpu()
    native = array.dtype.newbyteorder("=")
    wide = {np.dtype(np.uint16): np.int32, np.dtype(np.uint32): np.int64, np.dtype(np.uint64): np.int64}
    return torch.from_numpy(np.array(array, dtype=wide.get(native, native), order="C"))


def _refusal(raw: Any, index: int | str, channels: int) -> str:
    shape = f" of shape {tuple(raw.shape)} and dtype {raw.dtype}" if hasattr(raw, "shape") else ""
    other = "" if channels == 3 else f" of the {channels} channels that the backbone takes"
    return (
        f"image {index} is a {type(raw).__name__}{shape}: give paths, PIL images, uint8 tensors ({channels}, H, W), "
        f"uint8 arrays (H, W, {channels}){other}, or float images ({channels}, H, W)"
    )
