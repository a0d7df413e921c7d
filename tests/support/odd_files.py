"""Image files with the metadata and transparency that cameras, phones and programs really write, made of bytes."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Sequence

import numpy as np
from PIL import Image

#: a field of EXIF: its tag, type, count, and value, packed; one longer than four bytes lies behind the others
Field = tuple[int, int, int, bytes]

LEFT_RED = np.zeros((8, 16, 3), np.uint8)
LEFT_RED[:, :8, 0] = 255


def exif(fields: Sequence[Field], order: str = ">") -> bytes:
    """A TIFF header with one directory."""
    start = 8 + 2 + 12 * len(fields) + 4
    entries, behind = b"", b""
    for tag, kind, count, value in fields:
        place = value.ljust(4, b"\0")
        if len(value) > 4:
            place = struct.pack(f"{order}I", start + len(behind))
            behind += value
        entries += struct.pack(f"{order}HHI", tag, kind, count) + place
    head = (b"MM\0*" if order == ">" else b"II*\0") + struct.pack(f"{order}I", 8)
    return head + struct.pack(f"{order}H", len(fields)) + entries + struct.pack(f"{order}I", 0) + behind


def turned(orientation: int = 6) -> Field:
    return (0x0112, 3, 1, struct.pack(">H", orientation))


#: name -> EXIF whose orientation is 6, and what it is turned to be by; 1 where nothing can be read
ODD_EXIF: dict[str, tuple[bytes, int]] = {
    "plain": (exif([turned()]), 6),
    "a negative SRATIONAL XResolution": (exif([turned(), (0x011A, 10, 1, struct.pack(">ii", -72, 1))]), 6),
    "a negative SLONG ImageWidth": (exif([(0x0100, 9, 1, struct.pack(">i", -5)), turned()]), 6),
    "a 64-bit StripOffsets": (exif([(0x0111, 16, 1, struct.pack(">Q", 1 << 40)), turned()]), 6),
    "XMP stored as ASCII": (exif([turned(), (0x02BC, 2, 20, b"<x:xmpmeta></x:xmp>\0")]), 6),
    "a rational that is no number": (exif([turned(), (0x011A, 5, 1, struct.pack(">II", 0, 0))]), 6),
    "a float that is no number": (exif([turned(), (0x011A, 11, 1, struct.pack(">f", float("nan")))]), 6),
    "a tag of an unknown type": (exif([(0x010F, 99, 3, b"abc\0"), turned()]), 6),
    "text that is longer than the file": (exif([turned(), (0x010F, 2, 1 << 30, b"\0\0\1\0")]), 6),
    "a directory inside that is not there": (exif([turned(), (0x8769, 4, 1, b"\x7f\xff\xff\xff")]), 6),
    "GPS that is garbage": (exif([turned(), (0x8825, 2, 3, b"abc\0")]), 6),
    "text that is no ASCII": (exif([(0x010F, 2, 4, b"\xff\xfe\xfd\0"), turned()]), 6),
    "a directory cut off behind it": (exif([turned(), (0x011A, 5, 1, bytes(8))])[:24], 6),
    "an orientation of 4 bytes": (exif([(0x0112, 4, 1, struct.pack(">I", 6))]), 6),
    "an orientation of 1 byte": (exif([(0x0112, 1, 1, b"\6")]), 6),
    "Exif twice": (b"Exif\0\0" + exif([turned()]), 6),
    "an orientation of 0": (exif([turned(0)]), 1),
    "an orientation of 9": (exif([turned(9)]), 1),
    "an orientation as text": (exif([(0x0112, 2, 2, b"6\0")]), 1),
    "a garbage header": (b"garbage!" * 4, 1),
    "nothing": (b"", 1),
    "two bytes": (b"MM", 1),
    "a directory beyond the end": (b"MM\0*\x7f\xff\xff\xff", 1),
}


def _encoded(form: str, pixels: np.ndarray = LEFT_RED, **options: object) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, form, **options)
    return file.getvalue()


def jpeg(data: bytes) -> bytes:
    """A JPEG with an APP1 segment of EXIF."""
    plain, body = _encoded("JPEG", quality=95), b"Exif\0\0" + data
    return plain[:2] + b"\xff\xe1" + struct.pack(">H", len(body) + 2) + body + plain[2:]


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


def png(*chunks: tuple[bytes, bytes], late: bool = False, pixels: np.ndarray = LEFT_RED) -> bytes:
    """A PNG with chunks before its pixels, or behind them."""
    plain, more = _encoded("PNG", pixels), b"".join(chunk(*one) for one in chunks)
    place = plain.index(b"IEND" if late else b"IDAT") - 4
    return plain[:place] + more + plain[place:]


def webp(data: bytes) -> bytes:
    return _encoded("WEBP", lossless=True, exif=data or b"MM")


def tiff(fields: Sequence[Field], compression: int = 1) -> bytes:
    """An RGB TIFF of `LEFT_RED` with further fields."""
    height, width = LEFT_RED.shape[:2]
    strip = LEFT_RED.tobytes() if compression == 1 else zlib.compress(LEFT_RED.tobytes())

    def short(tag: int, *values: int) -> Field:
        return tag, 3, len(values), struct.pack(f">{len(values)}H", *values)

    own = [short(0x0100, width), short(0x0101, height), short(0x0102, 8, 8, 8), short(0x0103, compression)]
    own += [short(0x0106, 2), short(0x0115, 3), short(0x0116, height), (0x0117, 4, 1, struct.pack(">I", len(strip)))]
    place = len(exif([*own, *fields, (0x0111, 4, 1, bytes(4))]))
    return exif(sorted([*own, *fields, (0x0111, 4, 1, struct.pack(">I", place))])) + strip
