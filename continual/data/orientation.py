"""How a picture is to be rotated or mirrored, read from its metadata alone, whatever else is wrong with that.

Part of the stand-alone runner: see `continual.export.standalone`.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

#: EXIF's numbers and what Pillow calls the way back
TURNS = {2: "FLIP_LEFT_RIGHT", 3: "ROTATE_180", 4: "FLIP_TOP_BOTTOM", 5: "TRANSPOSE", 6: "ROTATE_270"}
TURNS |= {7: "TRANSVERSE", 8: "ROTATE_90"}
_ORIENTATION = 0x0112


def orientation(image: Any) -> int:
    """Return how a PIL image is to be transformed, 1 to 8 as in EXIF; 1 if its metadata does not say, or is damaged."""
    exif, profile = image.info.get("exif"), image.info.get("Raw profile type exif")
    found: Any = None
    try:
        if isinstance(exif, bytes):
            found = exif_orientation(exif)
        elif isinstance(profile, str):
            found = exif_orientation(bytes.fromhex("".join(profile.split("\n")[3:])))
        elif hasattr(image, "tag_v2"):
            found = image.tag_v2.get(_ORIENTATION)
    except Exception:  # a TIFF's tags are made sense of when they are asked for
        found = None
    found = found[0] if isinstance(found, tuple) and len(found) == 1 else found
    if found is None:
        found = _xmp_orientation(image.info.get("XML:com.adobe.xmp") or image.info.get("xmp"))
    return found if found in TURNS else 1


def exif_orientation(data: bytes) -> int | None:
    """Return the orientation tag of EXIF bytes, without a look at any other; None if there is none.

    >>> exif_orientation(bytes.fromhex("4d4d002a00000008 0001 0112 0003 00000001 0006 0000"))
    6
    """
    data = re.sub(rb"(?s)^(?:Exif\0.)+", b"", data)
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 10:
        return None
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    if start + 2 > len(data):
        return None
    (count,) = struct.unpack_from(f"{order}H", data, start)
    for place in range(start + 2, min(start + 2 + 12 * count, len(data) - 11), 12):
        tag, kind = struct.unpack_from(f"{order}HH", data, place)
        if tag == _ORIENTATION:
            form = {1: "B", 3: "H", 4: "I", 6: "b", 8: "h", 9: "i"}.get(kind)
            return None if form is None else struct.unpack_from(order + form, data, place + 8)[0]
    return None


def _xmp_orientation(xmp: Any) -> int | None:
    text = xmp.encode(errors="ignore") if isinstance(xmp, str) else xmp
    found = re.search(rb'tiff:Orientation(?:="|>)([0-9])', text) if isinstance(text, bytes) else None
    return None if found is None else int(found[1])


@contextmanager
def only_orientation(image: Any, turn: int) -> Iterator[bool]:
    """While a TIFF is loaded, which Pillow turns by itself, let its metadata be the orientation and nothing else.

    Gives whether it turns by itself.
    """
    from PIL import Image

    if not hasattr(image, "tag_v2"):
        yield False
        return
    about, xmp = Image.Exif(), image.info.pop("xmp", None)
    if turn in TURNS:
        about[_ORIENTATION] = turn
    image.getexif = lambda: about
    try:
        yield True
    finally:
        del image.getexif
        if xmp is not None and turn not in TURNS:
            image.info["xmp"] = xmp
