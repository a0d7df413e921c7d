"""From image files to pixels: one set of rules for the learner, the server and the stand-alone ONNX runner.

Of several frames or pages the first is taken. A picture is rotated as its orientation tag says, whatever else is wrong
with its metadata; transparent parts are laid on `GROUND`; of 16 bits per channel the upper 8 are used, unless a value
range says what black and white are (`continual.data.ranges.deep_ends`).

Needs numpy, and Pillow to read files: it is part of the stand-alone runner, see `continual.export.standalone`.
"""

from __future__ import annotations

import io
import math
import struct
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from continual.data.bands import pictures, read_bands
from continual.data.file_kinds import FORMATS, UnreadableError, heif, kind_of
from continual.data.orientation import TURNS, only_orientation, orientation
from continual.data.ranges import deep_ends
from continual.data.segments import Stripped, strip_jpeg, strip_png
from continual.errors import InputError

GROUND = 255  #: the grey value under transparent parts: white
MOST_PIXELS = 178_956_970  #: of one image: Pillow refuses more
MOST_SCANS = 50  #: of one JPEG: encoders write some 10, and each costs as much time as a picture
_DNG_VERSION = 0xC612  # a TIFF tag


@dataclass(frozen=True)
class Decoded:
    """A picture in RGB, as people see it; or what a file of many channels holds, see `continual.data.bands`."""

    image: Any  #: a `PIL.Image.Image`, or an array (H, W, C)
    transparent: bool = False  #: whether some of it was, and shows the ground now
    brightest: int | None = None  #: the largest number of a picture of 16 bits per channel, None for others


@dataclass(frozen=True)
class EncodedImage:
    """The bytes of an image file that lies in something larger (a parquet file, say), read when they are asked for."""

    name: str
    read: Callable[[], bytes]

    def __str__(self) -> str:
        return self.name


# From a file to a picture ------------------------------------------------------------------------------


def opened(source: str | Path | bytes, name: str, channels: int = 3, value_range: str | None = None) -> Decoded:
    """Return what `decode` does; raises InputError that names the file and what to do."""
    try:
        return decode(source, name=name, channels=channels, value_range=value_range)
    except FileNotFoundError:
        raise InputError(f"no image at {name}") from None
    except UnreadableError as error:
        cure = "remove or convert it" if error.kind == "unknown" else "remove it or replace it"
        raise InputError(f"{name} is not a readable image ({error}): {cure}") from error


def decoded(raw: str | Path | EncodedImage, channels: int = 3, value_range: str | None = None) -> Decoded:
    """Read an image file; raises InputError that names it if it is none, see `decode`."""
    if not isinstance(raw, EncodedImage):
        return opened(raw, str(raw), channels, value_range)
    try:
        content = raw.read()
    except InputError:
        raise
    except FileNotFoundError:
        raise InputError(f"no image at {raw}") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{raw} is not a readable image ({error}): remove it or replace it") from error
    return opened(content, str(raw), channels, value_range)


def unpacked(raw: Any, channels: int) -> Any:
    """Return the array that a file of many channels holds, and all else as it is."""
    is_file = isinstance(raw, str | Path | EncodedImage)
    return decoded(raw, channels).image if is_file and not pictures(channels) else raw


def decode(
    source: str | Path | bytes,
    *,
    name: str = "",
    most_pixels: int = MOST_PIXELS,
    channels: int = 3,
    value_range: str | None = None,
) -> Decoded:
    """Read an image file, or the bytes of one that is called `name`; raises UnreadableError that says why not.

    For one and three `channels` it is a picture, in RGB; for others a file of as many, of which `most_pixels` numbers
    are read. `value_range` is the name of what the numbers of a picture of 16 bits mean. Raises FileNotFoundError if
    there is no such file.
    """
    if isinstance(source, bytes):
        return _decode(io.BytesIO(source), Path(name).suffix, most_pixels, channels, value_range)
    path = Path(source)
    if path.exists() and not path.is_file():
        raise UnreadableError("unknown", "it is no file")
    try:
        with path.open("rb") as file:
            return _decode(file, path.suffix, most_pixels, channels, value_range)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UnreadableError("damaged", error.strerror or str(error)) from error


def _decode(file: BinaryIO, suffix: str, most_pixels: int, channels: int, value_range: str | None) -> Decoded:
    kind = kind_of(file, suffix)
    if not pictures(channels):
        return Decoded(read_bands(file, kind, channels, most_pixels))
    from PIL import Image, UnidentifiedImageError

    opener = heif() if kind == "HEIF" else None
    if kind == "HEIF" and opener is None:
        raise UnreadableError("unknown", "it is HEIF (HEIC): pip install 'equimos[heif]', or convert it to JPEG")
    if kind not in FORMATS:
        raise UnreadableError("unknown", f"{'' if kind is None else f'it is {kind}, not one of '}{', '.join(FORMATS)}")
    strip = {"JPEG": strip_jpeg, "PNG": strip_png}.get(kind)
    stripped = Stripped(b"") if strip is None else strip(file.read())
    if stripped.scans > MOST_SCANS:
        raise UnreadableError("large", f"it has {stripped.scans} scans: at most {MOST_SCANS} are read")
    file = file if strip is None else io.BytesIO(stripped.data)
    try:
        for inside in _inside_icon(file) if kind == "ICO" else []:
            _check_size(inside, most_pixels)
        with opener(file) if opener else Image.open(file, formats=[kind]) as image:
            _check_size(image.size, most_pixels)
            if kind == "TIFF" and _DNG_VERSION in getattr(image, "tag_v2", ()):
                raise UnreadableError("unknown", f"it is camera raw, not one of {', '.join(FORMATS)}")
            image.info.update(stripped.info)
            return as_rgb(image, value_range)
    except UnreadableError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise UnreadableError("large", f"it has too many pixels: at most {most_pixels} are read") from None
    except UnidentifiedImageError as error:
        bands = ", or it has many channels, which backbones with as many take (in_chans, data.channels)"
        said = f"it begins as {kind}, and cannot be read further{bands if kind == 'TIFF' else ''}"
        raise UnreadableError("damaged", said) from error
    except Exception as error:  # every decoder has its own for data that is cut off or damaged
        raise UnreadableError("damaged", str(error) or type(error).__name__) from error


def _check_size(size: tuple[int, int], most_pixels: int) -> None:
    if math.prod(size) > most_pixels:
        raise UnreadableError("large", f"it has {size[0]} x {size[1]} pixels: at most {most_pixels} are read")


def _inside_icon(file: BinaryIO) -> list[tuple[int, int]]:
    """Return the width and height of the pictures inside an icon, of which its own list may say less."""
    place, found = file.tell(), []
    file.seek(4)
    entries = file.read(2 + 16 * 255)
    for start in range(2, min(2 + 16 * entries[0], len(entries) - 15), 16):
        file.seek(struct.unpack_from("<I", entries, start + 12)[0])
        head = file.read(24).ljust(24, b"\0")
        width, height = struct.unpack_from(*((">II", head, 16) if head.startswith(b"\x89PNG") else ("<ii", head, 4)))
        found.append((abs(width), abs(height)))
    file.seek(place)
    return found


# From a picture to RGB ---------------------------------------------------------------------------------


def as_rgb(image: Any, value_range: str | None = None) -> Decoded:
    """Return a PIL image as people see it, see above; raises UnreadableError for pixels of unknown brightness.

    Those are floats, whole numbers beyond 16 bits, and colours of 16 bits that do not use all of them.
    """
    from PIL import Image

    colours_of_16_bits = any(";16" in str(tile[3]) for tile in getattr(image, "tile", ())) and image.mode[0] != "I"
    turn = orientation(image)
    with only_orientation(image, turn) as turns_itself:
        image.load()
    if not turns_itself:
        turn = orientation(image)  # a PNG may have its EXIF behind the pixels
        if turn in TURNS:
            image = image.transpose(Image.Transpose[TURNS[turn]])
    ends = deep_ends(value_range)
    if colours_of_16_bits and ends is not None:
        reason = f"its colours have 16 bits, of which Pillow reads 8: with value range {value_range}, save it in 8 bits"
        raise UnreadableError("unusable", reason)
    found = _rgb(image, ends)
    if colours_of_16_bits:
        most = max(high for _, high in found.image.getextrema())
        found = replace(found, brightest=256 * most + 255 if most else 0)
    found.image.info.clear()  # it says how to transform what is transformed already
    return found


def _rgb(image: Any, ends: tuple[float, float] | None) -> Decoded:
    from PIL import Image

    key = image.info.get("transparency")
    if image.mode[0] == "I":
        pixels = np.asarray(image)
        if pixels.size and 0 <= pixels.min() <= pixels.max() < 2**16:
            grey, most = Image.fromarray(_upper_bits(pixels, ends)), int(pixels.max())
            hidden = pixels == key if isinstance(key, int) else np.zeros((), bool)
            if hidden.any():
                seen = Image.fromarray(np.where(hidden, 0, 255).astype(np.uint8))
                return Decoded(_on_ground(grey, seen), True, most)
            return Decoded(grey.convert("RGB"), brightest=most)
    if image.mode[0] in "IF":
        reason = f"its pixels are 32-bit numbers (mode {image.mode}): save it with 8 or 16 bits per channel"
        raise UnreadableError("unusable", reason)
    if image.mode in ("RGBA", "LA", "PA", "RGBa", "La") or key is not None:
        image = _with_alpha(image, key)
        if (alpha := image.getchannel("A")).getextrema()[0] < 255:
            return Decoded(_on_ground(image, alpha), True)
    return Decoded(image.convert("RGB"))


def _upper_bits(pixels: np.ndarray, ends: tuple[float, float] | None) -> np.ndarray:
    """Return numbers of 16 bits as bytes: the upper ones, or steps from black to white."""
    if ends is None:
        return (pixels // 256).astype(np.uint8)
    black, white = ends
    return (255 * np.clip((pixels - black) / (white - black), 0, 1) + 0.5).astype(np.uint8)


def _with_alpha(image: Any, key: Any) -> Any:
    """Return an image as RGBA; where what it says of transparency makes no sense, nothing is transparent."""
    if image.mode in ("RGBa", "La"):
        return image.convert(f"{image.mode[:-1]}A").convert("RGBA")
    if isinstance(key, tuple) and max(key, default=0) > 255:  # a colour of 16 bits, of which the upper 8 were read
        image = image.copy()
        image.info["transparency"] = tuple(value >> 8 for value in key)
    try:
        return image.convert("RGBA")
    except (ValueError, TypeError, OverflowError):
        image = image.copy()
        del image.info["transparency"]
        return image.convert("RGBA")


def _on_ground(image: Any, alpha: Any) -> Any:
    from PIL import Image

    ground = Image.new("RGB", image.size, (GROUND,) * 3)
    ground.paste(image.convert("RGB"), mask=alpha)
    return ground


def on_ground(pixels: np.ndarray) -> np.ndarray:
    """Return uint8 (H, W, 3) of RGBA pixels, uint8 (H, W, 4), with Pillow's rounding."""
    colour, alpha = pixels[..., :3].astype(np.uint16), pixels[..., 3:].astype(np.uint16)
    return ((colour * alpha + GROUND * (255 - alpha) + 127) // 255).astype(np.uint8)
