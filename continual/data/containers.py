"""Images and labels in the containers people have them in, read by position and never by key.

Without torch, as it is part of the stand-alone runner: see `continual.export.standalone`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np

from continual.data.arrays import is_tensor
from continual.data.decoding import EncodedImage
from continual.errors import InputError

Label = str | int  #: a class's name as the user knows it

#: images of many that are looked at to tell the range of their numbers
LOOKED_AT = 32
#: names of the image and of the label, in items that are mappings
IMAGE_KEYS = ("image", "img", "pixel_values", "images", "x")
LABEL_KEYS = ("label", "labels", "target", "targets", "y", "fine_label")


# Columns -----------------------------------------------------------------------------------------------------


def by_position(values: Any, what: str = "images") -> Any:
    """Return a container whose `[i]` is the i-th: columns of tables as lists, all that is a sequence as it is.

    Columns are those of pandas, polars and pyarrow, tables with a single column, and arrays of paths. Raises InputError
    for what has keys (a mapping, a table of several columns) or no order (a set).
    """
    if hasattr(values, "column_names") and hasattr(values, "features"):
        return values  # a Hugging Face data set, whose rows go by position
    if isinstance(values, Mapping):
        keys = ", ".join(repr(key) for key in list(values)[:5])
        raise InputError(f"{what} are a mapping with the keys {keys}, which has no order: give one of its values")
    if isinstance(values, Set):
        raise InputError(f"{what} are a set, which has no order: give a list")
    if isinstance(values, np.ndarray) and values.ndim == 2 and values.shape[1] == 1 and values.dtype.kind in "OUST":
        values = values[:, 0]
    if isinstance(values, np.ndarray):
        return values.tolist() if values.ndim == 1 and values.dtype.kind in "OUST" else values
    if is_tensor(values) or isinstance(values, list | tuple):
        return values
    if isinstance(getattr(values, "shape", None), tuple) and len(values.shape) == 2 and hasattr(values, "columns"):
        if values.shape[1] != 1:
            names = ", ".join(map(str, list(_names(values))[:5]))
            raise InputError(f"{what} are a table with the columns {names}: give one of them, table['path'] say")
        column = values[_names(values)[0]] if not hasattr(values, "iloc") else values.iloc[:, 0]
        return by_position(column, what)
    for name in ("to_pylist", "to_list"):  # pyarrow; pandas and polars
        if hasattr(values, name):
            return getattr(values, name)()
    return values


def in_order(images: Any) -> Any:
    """Return what may hold several images by position; raises InputError for a single one.

    Arrays and tensors are checked to be batches.
    """
    if isinstance(images, str | Path) or hasattr(images, "getbands"):
        raise InputError("give a list of images: [image] for a single one")
    return by_position(images)


def as_batch(images: Any) -> Any:
    """Return what `in_order` gave; raises InputError if it is no batch of images, nor a sequence of them."""
    tensor = is_tensor(images)
    if tensor or isinstance(images, np.ndarray):
        shape = tuple(images.shape)
        if images.ndim not in (3, 4):
            raise InputError(f"images have shape {shape}: give a batch, (B, 3, H, W)")
        if images.ndim == 3 and (tensor or shape[-1] in (3, 4) or shape[0] in (3, 4)):
            raise InputError(
                f"images have shape {shape}: give a batch, image[None] for a single one, images[:, None] for grey ones"
            )
    sequence = hasattr(images, "__len__") and hasattr(images, "__getitem__")
    if not sequence or isinstance(images, bytes | bytearray):
        raise InputError(f"images must be a sequence, an array or a tensor, got {type(images).__name__}: list(...) is")
    return images


def _names(table: Any) -> Any:
    return table.column_names if hasattr(table, "column_names") else table.columns


def plain_labels(labels: Any) -> list[Label]:
    """Return labels (list, array, tensor or column) as a list of str or int; raise InputError on anything else."""
    labels = by_position(labels, "labels")
    values = labels.tolist() if is_tensor(labels) or isinstance(labels, np.ndarray) else labels
    if not isinstance(values, Iterable) or isinstance(values, str | bytes):
        raise InputError(f"labels must be a list, an array or a tensor, got {type(labels).__name__}")
    values = [plain(value) for value in values]
    for value in values:
        if isinstance(value, bool) or not isinstance(value, str | int):
            raise InputError(f"labels must be all str or all int, got {value!r} of type {type(value).__name__}")
    if len({type(value) for value in values}) > 1:
        raise InputError("labels must be all str or all int, got both")
    return values


# Items -------------------------------------------------------------------------------------------------------


def image_of(item: Any, index: int = 0) -> Any:
    """Return the image of an item: of a pair (image, label, ...) or a mapping; encoded bytes as a file."""
    if isinstance(item, Mapping) and not ({"bytes", "path"} & item.keys()):
        return image_of(item[_key(item, IMAGE_KEYS, "image")], index)
    if isinstance(item, Mapping):  # as Hugging Face keeps a picture that is not decoded
        content = item.get("bytes")
        return item.get("path") if content is None else image_of(content, index)
    if isinstance(item, bytes | bytearray):
        return EncodedImage(f"image {index}", lambda: bytes(item))
    return image_of(item[0], index) if isinstance(item, tuple) and item else item


def label_of(item: Any) -> Any:
    """Return the label of an item; raises TypeError or LookupError if it has none."""
    if isinstance(item, Mapping):
        return item[_key(item, LABEL_KEYS, "label")]
    if not isinstance(item, tuple | list):
        raise TypeError(f"an item is a {type(item).__name__}")
    return item[1]


def _key(item: Mapping[Any, Any], names: Sequence[str], what: str) -> str:
    found = [name for name in names if name in item]
    if not found:
        raise LookupError(f"no {what} among {', '.join(map(str, item))}: rename its column to {what!r}")
    return found[0]


def plain(value: Any) -> Any:
    """Return a single number of numpy or torch as Python's."""
    return value.item() if (is_tensor(value) or isinstance(value, np.generic)) and value.ndim == 0 else value
