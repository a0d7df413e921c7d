"""Uploads that no server should answer, any number of them, the same for the same seed."""

from __future__ import annotations

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

BOUNDARY = b"boundary"
TYPE = "multipart/form-data; boundary=boundary"
Request = tuple[str, bytes, str]  #: kind, body, content type


def part(data: bytes, name: bytes = b"photo.jpg") -> bytes:
    """One file of a multipart body; its name is written as it is."""
    head = b'--boundary\r\nContent-Disposition: form-data; name="image"; filename="' + name + b'"\r\n'
    return head + b"Content-Type: image/jpeg\r\n\r\n" + data + b"\r\n"


def body(*parts: bytes) -> bytes:
    """A whole multipart body."""
    return b"".join(parts) + b"--boundary--\r\n"


def encoded(draw: random.Random, kind: str, side: int = 24) -> bytes:
    """A picture of noise as a file."""
    pixels = np.random.default_rng(draw.randrange(2**32)).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, data: bytes, *more: bytes) -> bytes:
    """A PNG of one bit a pixel that says it is that large."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(more) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def cut(draw: random.Random) -> bytes:
    whole = encoded(draw, draw.choice(["JPEG", "PNG", "BMP", "GIF", "WEBP", "TIFF", "PPM"]))
    return whole[: int(len(whole) * draw.uniform(0.02, 0.8))]


def flipped(draw: random.Random) -> bytes:
    """A PNG whose compressed pixels are damaged."""
    whole = bytearray(encoded(draw, "PNG"))
    start = whole.index(b"IDAT") + 4
    for _ in range(40):
        whole[draw.randrange(start, len(whole) - 20)] ^= 1 + draw.randrange(255)
    return bytes(whole)


def zip_bomb(draw: random.Random) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("photo.jpg", bytes(2**23 + draw.randrange(2**20)))
    return file.getvalue()


def text_bomb(draw: random.Random) -> bytes:
    """A small PNG with a text that unpacks to 100 MB."""
    squeezed = zlib.compress(bytes(100_000_000 + draw.randrange(1000)), 9)
    return png(8, 8, zlib.compress(bytes(16)), chunk(b"zTXt", b"note\0\0" + squeezed))


def hundred_megapixels(draw: random.Random) -> bytes:
    side = 10_000 + draw.randrange(2000)
    return png(side, side, zlib.compress(bytes((side // 8 + 1) * side), 9))


def floats(draw: random.Random) -> bytes:
    """A TIFF of numbers from 0 to 1."""
    file = io.BytesIO()
    Image.fromarray(np.full((8, 8), draw.random(), np.float32)).save(file, "TIFF")
    return file.getvalue()


SVG = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>'
FILES: dict[str, Callable[[random.Random], bytes]] = {
    "cut off": cut,
    "damaged": flipped,
    "text": lambda draw: ("not a picture " * draw.randrange(1, 50)).encode(),
    "svg": lambda draw: SVG + b" " * draw.randrange(50),
    "pdf": lambda draw: b"%PDF-1.7\n" + draw.randbytes(100),
    "noise": lambda draw: draw.randbytes(draw.randrange(1, 5000)),
    "empty": lambda draw: b"",
    "zip bomb": zip_bomb,
    "text bomb": text_bomb,
    "100 megapixels": hundred_megapixels,
    "too large": lambda draw: encoded(draw, "BMP") + bytes(10 * 2**20),
    "pcx": lambda draw: encoded(draw, "PCX"),
    "eps": lambda draw: encoded(draw, "EPS"),
    "floats": floats,
}


def requests(count: int, seed: int = 0) -> Iterator[Request]:
    """Yield so many requests, of every kind in turn."""
    draw = random.Random(seed)
    whole = [*FILES, "name", "no file", "too many", "boundary", "cut body", "json", "header", "one of two", "huge"]
    for number in range(count):
        kind = whole[number % len(whole)]
        good = encoded(draw, "PNG")
        if kind in FILES:
            yield kind, body(part(FILES[kind](draw), b"photo%d.jpg" % number)), TYPE
        elif kind == "name":
            yield kind, body(part(good, b"photo\xff\xfe%d.png" % number)), TYPE
        elif kind == "no file":
            yield kind, body(b'--boundary\r\nContent-Disposition: form-data; name="image"\r\n\r\nphoto\r\n'), TYPE
        elif kind == "too many":
            yield kind, body(*[part(good)] * 33), TYPE
        elif kind == "boundary":
            yield kind, body(part(good)), "multipart/form-data"
        elif kind == "cut body":
            yield kind, body(part(good))[: 60 + draw.randrange(30)], TYPE
        elif kind == "json":
            yield kind, b'{"image": "photo.jpg"}', "application/json"
        elif kind == "header":
            yield kind, b"--boundary\r\nContent-Disp\x00osition: ;;=\r\n\r\n" + good + b"\r\n--boundary--\r\n", TYPE
        elif kind == "one of two":
            yield kind, body(part(good), part(SVG)), TYPE
        else:
            yield kind, body(part(bytes(21 * 2**20))), TYPE


def photo() -> bytes:
    """A small good picture."""
    return encoded(random.Random(0), "PNG", 16)


def many_scans(width: int, height: int, more: int) -> bytes:
    """A small progressive JPEG whose last scan comes again and again: each costs a round of all pixels."""
    file = io.BytesIO()
    Image.new("RGB", (width, height), (90, 80, 70)).save(file, "JPEG", progressive=True)
    whole = file.getvalue()
    last = whole.rindex(b"\xff\xda")
    return whole[:-2] + whole[last:-2] * more + whole[-2:]
