"""JPEG and PNG files without their metadata, which Pillow makes sense of even where nobody asks, and may trip over.

What a picture looks like needs few of a file's segments; the rest, often longer than the picture and damaged by some
program on its way, is left out, except for the orientation of the picture. Part of the stand-alone runner: see
`continual.export.standalone`.
"""

from __future__ import annotations

import re
import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

_JPEG_MARK = re.compile(rb"\xff+([^\0\x01\xd0-\xd8\xff])", re.DOTALL)  # those with a length behind them
_APP0, _APP1, _APP14, _APP15, _COMMENT, _SCAN, _END = 0xE0, 0xE1, 0xEE, 0xEF, 0xFE, 0xDA, 0xD9
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_PNG_PICTURE = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_MOST_TEXT = 2**20  # bytes of a text that is unpacked


@dataclass
class Stripped:
    """A file's picture, and its metadata by the names that Pillow has for it in `Image.info`."""

    data: bytes
    info: dict[str, Any] = field(default_factory=dict)
    scans: int = 0  #: of a JPEG


def strip_jpeg(data: bytes) -> Stripped:
    """Return the first picture of a JPEG file with no application segments but JFIF's and Adobe's."""
    found, kept, start, place = Stripped(b""), [], 0, 2
    while mark := _JPEG_MARK.search(data, place):
        kind, place = mark[1][0], mark.end()
        if kind == _END:
            break
        end = place + int.from_bytes(data[place : place + 2])
        found.scans += kind == _SCAN
        if kind == _COMMENT or (_APP0 < kind <= _APP15 and kind != _APP14):
            kept.append(data[start : mark.start()])
            start, body = end, data[place + 2 : end]
            if kind == _APP1 and body.startswith(b"Exif\0"):
                found.info.setdefault("exif", body)
            elif kind == _APP1 and body.startswith(_XMP):
                found.info.setdefault("xmp", body[len(_XMP) :])
        place = end
    found.data = b"".join([*kept, data[start:]])
    return found


def strip_png(data: bytes) -> Stripped:
    """Return a PNG file with nothing but its header, palette, transparency and pixels."""
    found, kept, place = Stripped(b""), [data[:8]], 8
    while place + 8 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, place)
        end = place + 12 + length
        body = data[place + 8 : end - 4]
        if kind in _PNG_PICTURE:
            kept.append(data[place:end])
        elif kind == b"eXIf":
            found.info.setdefault("exif", body)
        elif kind in (b"tEXt", b"zTXt", b"iTXt"):
            name, _, text = body.partition(b"\0")
            if name in (b"Raw profile type exif", b"XML:com.adobe.xmp"):
                found.info.setdefault(name.decode(), _text(kind, text))
        if kind == b"IEND":
            break
        place = end
    found.data = b"".join(kept)
    return found


def _text(kind: bytes, body: bytes) -> str:
    """Return what stands in a text chunk behind its name; nothing if it cannot be unpacked."""
    packed = kind == b"zTXt" or (kind == b"iTXt" and body[:1] == b"\1")
    body = body[1:] if kind == b"zTXt" else body[2:].split(b"\0", 2)[-1] if kind == b"iTXt" else body
    try:
        body = zlib.decompressobj().decompress(body, _MOST_TEXT) if packed else body
    except zlib.error:
        body = b""
    return body.decode("latin-1")
