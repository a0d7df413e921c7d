"""Files of any number of channels as arrays: multispectral TIFF, read by `tifffile`, and .npy.

What a file says of its shape is looked at first: one that would take more memory than the largest picture is refused
before its numbers are read, and what is compressed is unpacked no further than it promised. Nothing is scaled here:
what the numbers mean is said by a value range, see `continual.data.ranges`.

Part of the stand-alone runner: see `continual.export.standalone`.
"""

from __future__ import annotations

import io
import logging
import math
import zlib
from typing import Any, BinaryIO

import numpy as np

from continual.data.file_kinds import UnreadableError
from continual.errors import InputError, NeedsExtraError

_QUIET = logging.NullHandler()
NPY = b"\x93NUMPY"  #: what a .npy file begins with
_NONE, _DEFLATE = 1, (8, 32946)  # compressions of TIFF
_WITH_IMAGECODECS = {5: "LZW", 32773: "PackBits", 50000: "Zstandard"}
_TURNED_BY = 274  # a TIFF tag
_TURNS: dict[int, tuple[bool, int, int]] = {  # axes swapped?, then the steps of rows and columns
    2: (False, 1, -1), 3: (False, -1, -1), 4: (False, -1, 1),
    5: (True, 1, 1), 6: (True, 1, -1), 7: (True, -1, -1), 8: (True, -1, 1),
}  # fmt: skip


def pictures(channels: int) -> bool:
    """Tell whether a backbone of so many channels takes pictures: one, grey, or three."""
    return channels in (1, 3)


def check_pictures(channels: int) -> None:
    """Raise InputError if pictures and image files, which are read in RGB, cannot become input of so many channels."""
    if not pictures(channels):
        raise InputError(
            f"the backbone takes {channels} channels, and pictures have three: give TIFF or .npy files of {channels} "
            f"channels, or arrays ({channels}, H, W), with value_range=(black, white) unless they are uint8"
        )


def read_bands(file: BinaryIO, kind: str | None, channels: int, most: int) -> np.ndarray:
    """Return a file's numbers, (H, W, C) with `channels` of them, of the dtype that they were written in.

    `kind` is that of `kind_of`. Raises UnreadableError for what is no such file, has other channels or more numbers
    than `most`, or is damaged; NeedsExtraError where tifffile, or imagecodecs for its compression, is missing.
    """
    start = file.read(len(NPY))
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if size > 8 * most + 2**20:
        raise UnreadableError("large", f"it has {size} bytes: at most {most} numbers are read")
    if start == NPY:
        return _of_npy(file, size, channels, most)
    if kind != "TIFF":
        what = "no picture" if kind is None else f"{kind}, a picture"
        raise UnreadableError(
            "unusable", f"it is {what}, and the backbone takes {channels} channels: give TIFF or .npy files of as many"
        )
    try:
        import tifffile
    except ImportError:
        raise NeedsExtraError(
            f"TIFF files of {channels} channels need tifffile: pip install 'equimos[tiff]', or give .npy files"
        ) from None
    logging.getLogger("tifffile").addHandler(_QUIET)  # what is wrong with a file is said by the error
    try:
        content = file.read()
        with tifffile.TiffFile(io.BytesIO(content)) as opened:
            return _of_tiff(opened, content, channels, most)
    except (UnreadableError, NeedsExtraError):
        raise
    except Exception as error:  # a damaged file may lead to any
        raise UnreadableError("damaged", str(error) or type(error).__name__) from error


# .npy --------------------------------------------------------------------------------------------------


def _of_npy(file: BinaryIO, size: int, channels: int, most: int) -> np.ndarray:
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        file.seek(0)
    except Exception as error:
        raise UnreadableError("damaged", str(error)) from error
    if dtype.kind not in "buif":
        raise UnreadableError("unusable", f"its numbers are of dtype {dtype}: save whole numbers or floats")
    usual = len(shape) == 3 and shape[2] == channels
    if len(shape) != 3 or channels not in (shape[0], shape[2]):
        raise UnreadableError(
            "unusable", f"its shape is {shape}, and the backbone takes {channels} channels: save (H, W, {channels})"
        )
    _check_numbers(math.prod(shape), dtype, most)
    if math.prod(shape) * dtype.itemsize > size:
        raise UnreadableError("damaged", "it is cut off")
    try:
        values: np.ndarray = np.load(file, allow_pickle=False)
    except Exception as error:
        raise UnreadableError("damaged", str(error)) from error
    return values if usual else np.moveaxis(values, 0, -1)


def _check_numbers(count: int, dtype: Any, most: int) -> None:
    if count * max(4, dtype.itemsize) > 4 * most:
        raise UnreadableError("large", f"it has {count} numbers: at most {most} are read")
    if count == 0:
        raise UnreadableError("damaged", "it has no pixels")


# TIFF --------------------------------------------------------------------------------------------------


def _of_tiff(opened: Any, content: bytes, channels: int, most: int) -> np.ndarray:
    """Return the first page, or, where pages have a single channel each, as many pages as there are channels."""
    first = opened.pages[0]
    pages = [first]
    if first.samplesperpixel == 1:
        pages = _some(opened.pages, channels + 1)
    count = first.samplesperpixel if len(pages) == 1 else len(pages)
    if count != channels:
        more = "more than " if len(pages) > channels else ""
        said = f"{more}{min(count, channels) if more else count} channel{'s' * (count != 1)}"
        raise UnreadableError("unusable", f"it has {said}, and the backbone takes {channels}")
    shape = (first.imagelength, first.imagewidth)
    if any((page.imagelength, page.imagewidth, page.dtype) != (*shape, first.dtype) for page in pages):
        raise UnreadableError("unusable", "its pages, one for each channel, differ in size or dtype")
    _check_numbers(math.prod(shape) * channels, first.dtype or np.dtype(np.uint8), most)
    for page in pages:
        _check_page(page, content, most)
    # (planes, depth, H, W, samples)
    planes = [page.asarray(squeeze=False, maxworkers=1) for page in pages]
    values = np.concatenate([np.moveaxis(plane[:, 0], 0, -1).reshape(*shape, -1) for plane in planes], axis=-1)
    return _turned(values, first.tags.valueof(_TURNED_BY, 1))


def _some(pages: Any, most: int) -> list[Any]:
    """Return at most so many pages; a chain of them may be endless."""
    found: list[Any] = []
    while len(found) < most:
        try:
            found.append(pages[len(found)])
        except IndexError:
            break
    return found


def _check_page(page: Any, content: bytes, most: int) -> None:
    """Raise UnreadableError for numbers that are not read, and for data that are more than the page says."""
    dtype = page.dtype
    if dtype is None or dtype.kind not in "uif" or {*_several(page.bitspersample)} != {8 * dtype.itemsize}:
        raise UnreadableError(
            "unusable", f"its numbers have {page.bitspersample} bits: save 8, 16 or 32 bits, or floats"
        )
    if page.imagedepth != 1:
        raise UnreadableError("unusable", f"it has a depth of {page.imagedepth}: save one layer")
    if page.compression not in (_NONE, *_DEFLATE, *_WITH_IMAGECODECS):
        raise UnreadableError(
            "unusable", f"its compression is {_name(page.compression)}: save it with Deflate, or none"
        )
    inside = page.samplesperpixel if page.planarconfig == 1 else 1
    height, width = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    segment = (height if page.is_tiled else min(height, page.imagelength)) * width * inside
    if segment > most or sum(page.databytecounts) > 2 * len(content):
        raise UnreadableError("large", "its tiles or strips are larger than the picture, or lie one on the other")
    if page.compression == _NONE and page.nbytes > len(content) and all(page.dataoffsets):
        raise UnreadableError("damaged", "it is cut off")
    if page.compression in _WITH_IMAGECODECS or page.predictor == 3:
        _check_imagecodecs(_WITH_IMAGECODECS.get(page.compression, "a predictor for floats"))
    if page.compression in _DEFLATE:
        for start, size in zip(page.dataoffsets, page.databytecounts, strict=True):
            _check_unpacked(content[start : start + size], segment * dtype.itemsize)


def _check_unpacked(packed: bytes, promised: int) -> None:
    """Raise UnreadableError for what becomes more than `promised` bytes; no more are unpacked to find out."""
    if packed and len(zlib.decompressobj().decompress(packed, promised + 1)) > promised:
        raise UnreadableError("large", "what it holds is larger, unpacked, than it says")


def _check_imagecodecs(what: str) -> None:
    try:
        import imagecodecs  # noqa: F401
    except ImportError:
        raise NeedsExtraError(
            f"TIFF files with {what} need imagecodecs: pip install imagecodecs, or save them with Deflate, or none"
        ) from None


def _name(compression: Any) -> str:
    return str(getattr(compression, "name", compression))


def _several(value: Any) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _turned(values: np.ndarray, orientation: Any) -> np.ndarray:
    """Return (H, W, C) as its orientation tag says; one that makes no sense says nothing."""
    if not isinstance(orientation, int) or orientation not in _TURNS:
        return values
    swapped, rows, columns = _TURNS[orientation]
    return (values.swapaxes(0, 1) if swapped else values)[::rows, ::columns]
