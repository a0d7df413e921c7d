"""One image that is an array or a tensor, of any layout and dtype, as numbers that can be resized.

One set of rules for the learner and the stand-alone runner, of which it is a part: see `continual.export.standalone`.
It needs numpy alone, and knows tensors by their methods.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from continual.data.ranges import BYTES, NORMALISED, UNIT, ValueRange, decide, ends, fits, range_name
from continual.errors import InputError

Array = Any  #: an `np.ndarray` or a `torch.Tensor`
#: what red, green and blue add to grey, as Pillow weighs them
GREY = np.array([[0.299], [0.587], [0.114]], np.float32)


def is_tensor(value: Any) -> bool:
    """Tell whether something is a tensor of torch."""
    return hasattr(value, "is_floating_point") and hasattr(value, "detach")


def as_array(raw: Any) -> Array | None:
    """Return a numpy array, a tensor, or an array of another library (jax, tensorflow) as one of the first two.

    None if it is none of these. Raises InputError for a tensor whose numbers cannot be read as they lie.
    """
    if is_tensor(raw):
        return _dense(raw)
    if isinstance(raw, np.ndarray):
        return raw
    if hasattr(raw, "getbands") or not (hasattr(raw, "__array__") and hasattr(raw, "shape")):
        return None
    return np.asarray(raw)


def _dense(tensor: Any) -> Any:
    """Return a tensor without its gradient, and floats of 8 bits as float32, for which nothing is computed."""
    tensor = tensor.detach()
    for wrong, what, cure in (
        (tensor.is_meta, "on the meta device, without numbers", "load it"),
        (str(tensor.layout) != "torch.strided", "sparse", "pass tensor.to_dense()"),
        (tensor.is_quantized, "quantized", "pass tensor.dequantize()"),
    ):
        if wrong:
            raise InputError(f"the images are a tensor that is {what}: {cure}")
    return tensor.float() if tensor.is_floating_point() and tensor.element_size() == 1 else tensor


def is_float(array: Array) -> bool:
    """Tell whether the numbers are floats."""
    return bool(array.is_floating_point() if is_tensor(array) else np.issubdtype(array.dtype, np.floating))


def is_integer(array: Array) -> bool:
    """Tell whether the numbers are whole and may lie beyond 255."""
    if is_tensor(array):
        return not (array.is_floating_point() or array.is_complex() or _is_small(array))
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


def range_among(arrays: Iterable[Array], stated: ValueRange | None = None, remembered: str | None = None) -> str | None:
    """Return the name of the range of images that are arrays, by `continual.data.ranges`; None if none needs one.

    Raises InputError for NaN, and for numbers whose range cannot be known.
    """
    found = [array for array in arrays if needs_range(array)] if stated is None else []
    both = [own for array in found if (own := spread(array))]
    every = (min(low for low, _ in both), max(high for _, high in both)) if both else None
    return decide(stated, remembered, every, integers=any(is_integer(array) for array in found))


def finished(array: Array, channels: int = 3) -> np.ndarray:
    """Return a normalised image (C, H, W) or a batch of them as float32; (..., H, W, C) of numpy as well."""
    if is_tensor(array):
        values: np.ndarray = array.detach().cpu().float().numpy()
        return values
    values = np.array(array, dtype=np.float32, order="C")
    allowed = (1, 3) if channels in (1, 3) else (channels,)
    last = values.ndim > 2 and values.shape[-1] in allowed and values.shape[-3] not in allowed
    return np.moveaxis(values, -1, -3) if last else values


def check_finished(shape: Sequence[int], finite: bool, channels: int, size: Sequence[int], where: str = "") -> None:
    """Raise InputError unless a batch of this shape, `finite` or not, is what a backbone takes."""
    if tuple(shape[1:]) != (channels, *size) or len(shape) != 4:
        raise InputError(
            f"{where}the backbone takes (B, {channels}, {size[0]}, {size[1]}), got {tuple(shape)}: "
            "pass uint8 tensors, PIL images or paths to have them resized and normalised, or say with value_range "
            "what the numbers mean"
        )
    if not finite:
        raise InputError(f"{where}the images hold NaN or infinite values: remove or repair them first")


def readable(raw: Any, index: int | str, value_range: str | None = None, channels: int = 3) -> tuple[np.ndarray, str]:
    """Return an image's numbers, uint8 or float32 from 0 to 1, and their layout: "HW", "HWC" or "CHW".

    Of `channels` channels, or of one; for pictures, those of one or three, also of three, or of four, of which the last
    is transparency. Floats and wider integers are read by the range of that name, which must not be "normalised".
    Raises InputError for all else.
    """
    array = as_array(raw)
    if array is None or (layout := _layout(array, channels)) is None or 0 in array.shape:
        raise InputError(_refusal(raw, index, channels))
    if needs_range(array):
        if value_range is None or value_range == NORMALISED:
            raise InputError(f"{_refusal(raw, index, channels)}; other numbers with value_range=(black, white)")
        return _scaled(array, index, value_range), layout
    values: np.ndarray = array.detach().cpu().numpy() if is_tensor(array) else array
    return values * np.uint8(255) if values.dtype == np.bool_ else values, layout


def channels_last(values: np.ndarray, layout: str) -> np.ndarray:
    """Return the same numbers as (H, W, C), a view."""
    return values[..., None] if layout == "HW" else values if layout == "HWC" else np.moveaxis(values, 0, -1)


def coloured(values: np.ndarray, channels: int) -> np.ndarray:
    """Return floats (H, W, C) from 0 to 1 of three channels, or of four and on white, as (H, W, 1 or 3)."""
    if values.shape[2] == 4:
        alpha = values[..., 3:]
        values = values[..., :3] * alpha + (1 - alpha)
    return values @ GREY if channels == 1 else values


def _layout(array: Array, channels: int) -> str | None:
    """Return "HW", "CHW" or "HWC", or None: numpy's images have the channels last if they can, torch's first.

    A side of four pixels is not taken for four channels in the unusual order.
    """
    allowed = {1, 3, 4} if channels in (1, 3) else {channels}
    if not (needs_range(array) or _is_small(array)):
        return None
    if array.ndim == 2:
        return "HW" if 1 in allowed else None
    if array.ndim != 3:
        return None
    places = {"CHW": array.shape[0], "HWC": array.shape[2]}
    usual, other = ("CHW", "HWC") if is_tensor(array) else ("HWC", "CHW")
    if places[usual] in allowed:
        return usual
    return other if places[other] in (allowed if channels == 4 else allowed - {4}) else None


def _is_small(array: Array) -> bool:
    """Tell whether the numbers are bytes or truth values, which say themselves what they mean."""
    if is_tensor(array):
        return str(array.dtype) in ("torch.uint8", "torch.bool")
    return bool(array.dtype in (np.uint8, np.bool_))


def _scaled(array: Array, index: int | str, name: str) -> np.ndarray:
    """Return numbers of a range as uint8, or as float32 from 0 to 1 where the range is none of 8 bits."""
    if (found := spread(array)) and not fits(name, *found):
        raise InputError(
            f"image {index} has numbers from {found[0]:.4g} to {found[1]:.4g}, which is not the range {name!r}: state "
            "another value_range, or repair it"
        )
    low, high = ends(range_name(name))
    plain = array.detach().cpu().double().numpy() if is_tensor(array) else array.astype(np.float64)
    values = (plain - low) / (high - low)
    if name not in (UNIT, BYTES):
        return np.clip(values.astype(np.float32), 0, 1)
    return np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)


def _refusal(raw: Any, index: int | str, channels: int) -> str:
    shape = f" of shape {tuple(raw.shape)} and dtype {raw.dtype}" if hasattr(raw, "shape") else ""
    other = "" if channels in (1, 3) else f" of the {channels} channels that the backbone takes"
    return (
        f"image {index} is a {type(raw).__name__}{shape}: give paths, PIL images, uint8 tensors ({channels}, H, W), "
        f"uint8 arrays (H, W, {channels}){other}, or float images ({channels}, H, W)"
    )
