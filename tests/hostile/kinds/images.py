"""Images: damaged and lying files of every kind, bombs of pixels, text, scans and frames, and what is no file."""

from __future__ import annotations

import io
import os
import random
import struct
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from continual.data.file_kinds import SUFFIXES
from tests.hostile.corpus import Hostile, Materials, Words
from tests.support.malformed_requests import FILES, chunk, many_scans, png
from tests.support.odd_files import ODD_EXIF, exif, jpeg, tiff, webp

#: Pillow's names, modes and options of files that are sound
SOUND: list[tuple[str, str, dict[str, Any]]] = [
    ("JPEG", "RGB", {}), ("JPEG", "CMYK", {}), ("JPEG", "L", {"progressive": True}), ("PNG", "RGBA", {}),
    ("PNG", "P", {"transparency": 0}), ("PNG", "I;16", {}), ("PNG", "1", {}), ("GIF", "P", {"save_all": True}),
    ("BMP", "RGB", {}), ("BMP", "P", {}), ("TIFF", "RGB", {"compression": "tiff_lzw"}), ("TIFF", "RGB", {}),
    ("TIFF", "L", {"compression": "jpeg"}), ("TIFF", "1", {"compression": "group4"}), ("TIFF", "F", {}),
    ("WEBP", "RGBA", {}), ("WEBP", "RGB", {"lossless": True}), ("PPM", "RGB", {}), ("PPM", "L", {}),
    ("TGA", "RGBA", {}), ("ICO", "RGBA", {}), ("AVIF", "RGB", {}),
]  # fmt: skip


def cases(draw: random.Random, materials: Materials) -> Iterator[Hostile]:
    """Yield damaged files, files that lie about their size, bombs, and things that are no files."""
    while True:
        for make in (_damaged, _damaged, _damaged, _lying, _lying, _bomb, _odd, _upload, _no_file):
            yield make(draw, materials)


def _case(said: str, data: bytes, suffix: str, draw: random.Random, materials: Materials) -> Hostile:
    return _placed(said, lambda place: (place / f"x{suffix}").write_bytes(data), draw, materials)


def _placed(said: str, put: Callable[[Path], object], draw: random.Random, materials: Materials) -> Hostile:
    """Return the case of a folder with one class, in which something was put beside a good picture."""
    model, learns = draw.choice(materials.models), draw.random() < 0.3

    def make(folder: Path) -> Sequence[Words]:
        place = folder / "images" / "rose"
        place.mkdir(parents=True)
        Image.new("RGB", (9, 9), "red").save(place / "good.png")
        put(place)
        cpu = ("--device", "cpu")
        words: list[Words] = [["predict", place, "--model", model, *cpu, "--json", folder / "out.json"]]
        if learns:
            new = ("--model", folder / "new", "--weights", materials.weights, *cpu)
            words.append(["learn", "--dry-run", "--images", place.parent, *new])
        else:
            words.append(["data", "check", place.parent])
        return words

    return Hostile(said, make)


def _sound(draw: random.Random) -> tuple[str, bytes]:
    kind, mode, options = draw.choice(SOUND)
    noise = np.random.default_rng(draw.randrange(2**32)).integers(0, 256, (24, 20, 3), dtype=np.uint8)
    picture = Image.fromarray(noise)
    picture = picture.convert("I").convert("I;16") if mode == "I;16" else picture.convert(mode)
    if options.get("save_all"):
        options = {**options, "append_images": [picture.rotate(90)] * 3}
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return kind, file.getvalue()


def _suffix(draw: random.Random, kind: str) -> str:
    own = [suffix for suffix, known in SUFFIXES.items() if known == kind]
    return draw.choice(own * 3 + [*SUFFIXES, ""])


def _damaged(draw: random.Random, materials: Materials) -> Hostile:
    kind, data = _sound(draw)
    content = bytearray(data)
    how = draw.choice(["cut", "head", "anywhere", "noise inside", "longer", "twice", "swapped"])
    if how == "cut":
        del content[draw.randrange(len(content)) :]
    elif how in ("head", "anywhere"):
        for _ in range(draw.choice([1, 4, 30])):
            content[draw.randrange(min(len(content), 64 if how == "head" else 10**9))] ^= 1 << draw.randrange(8)
    elif how == "noise inside":
        place = draw.randrange(len(content))
        content[place : place + 16] = draw.randbytes(draw.choice([0, 16, 400]))
    elif how == "longer":
        content += draw.randbytes(draw.randrange(1, 5000))
    elif how == "twice":
        content += bytes(content)
    else:
        content = content[8:] + content[:8]
    return _case(f"{kind} {how}", bytes(content), _suffix(draw, kind), draw, materials)


def _lying(draw: random.Random, materials: Materials) -> Hostile:
    """Return a file in whose head some four bytes say an extreme number: a size, a count or an offset."""
    kind, data = _sound(draw)
    content, number = bytearray(data), draw.choice([0, 1, 65_535, 10**6, 2**31 - 1, 2**31, 2**32 - 1])
    order, place = draw.choice("<>"), draw.randrange(2, min(len(content) - 4, 80))
    struct.pack_into(f"{order}I", content, place, number)
    return _case(f"{kind} says {number} at {place}", bytes(content), _suffix(draw, kind), draw, materials)


def _bomb(draw: random.Random, materials: Materials) -> Hostile:
    name = draw.choice(sorted(_BOMBS))
    return _case(name, _BOMBS[name](draw), draw.choice([".png", ".jpg", ".tif", ".gif", ""]), draw, materials)


def _thread(draw: random.Random) -> bytes:
    long = draw.choice([70_000, 10**6, 10**7, 2**31 - 1])
    width, height = draw.choice([(long, 1), (1, long)])
    rows = min((width // 8 + 2) * height, 2**25)
    return png(width, height, zlib.compress(bytes(rows), 9))


def _frames(draw: random.Random) -> bytes:
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02\x44\x01\x00"
    side = draw.choice([1, 9, 65_535])
    return b"GIF89a" + struct.pack("<HHBBB", side, side, 0xF0, 0, 0) + bytes(6) + frame * 50_000 + b";"


def _pages(draw: random.Random) -> bytes:
    """A TIFF whose directory leads to itself, or to nowhere."""
    data = bytearray(tiff([]))
    entries = struct.unpack_from(">H", data, 8)[0]
    struct.pack_into(">I", data, 10 + 12 * entries, draw.choice([8, 9, 2**32 - 1, len(data)]))
    return bytes(data)


def _text_size(draw: random.Random) -> bytes:
    sizes = draw.choice([b"1000000000 1000000000", b"200000 200000", b"0 0", b"-1 -1", b"1" * 5000 + b" 1", b"9 9"])
    return draw.choice([b"P6", b"P5", b"P3", b"P1"]) + b"\n" + sizes + b"\n255\n" + draw.randbytes(200)


def _wide_bitmap(draw: random.Random) -> bytes:
    width, height = draw.choice([(2**31 - 1, 1), (1, -(2**31)), (30_000, 30_000), (13_000, 13_000), (-5, 5)])
    compression = draw.choice([0, 1, 3])
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, compression, 0, 0, 0, 2, 0) + bytes(8)
    return b"BM" + struct.pack("<IHHI", 14 + len(head), 0, 0, 14 + len(head)) + head


_BOMBS: dict[str, Callable[[random.Random], bytes]] = {
    "thread": _thread,
    "text bomb": FILES["text bomb"],
    "megapixels": FILES["100 megapixels"],
    "colour profile": lambda draw: png(
        8, 8, zlib.compress(bytes(16)), chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(10**8), 9))
    ),
    "scans": lambda draw: many_scans(*draw.choice([(16, 16), (3000, 3000)]), draw.choice([60, 3000])),
    "frames": _frames,
    "pages": _pages,
    "text size": _text_size,
    "bitmap": _wide_bitmap,
    "chunks": lambda draw: png(8, 8, zlib.compress(bytes(16)), *[chunk(b"teXt", b"a\0b")] * 100_000),
    "empty pixels": lambda draw: png(8, 8, b"", *[chunk(b"IDAT", b"")] * 10_000),
    "segments": lambda draw: jpeg(exif([]))[:2] + b"\xff\xfe\x00\x02" * 200_000 + jpeg(exif([]))[2:],
    "fill bytes": lambda draw: jpeg(exif([]))[:2] + b"\xff" * 10**6 + jpeg(exif([]))[2:],
}


def _odd(draw: random.Random, materials: Materials) -> Hostile:
    name = draw.choice(sorted(ODD_EXIF))
    data = bytearray(ODD_EXIF[name][0])
    for _ in range(draw.choice([0, 1, 5])):
        if data:
            data[draw.randrange(len(data))] = draw.randrange(256)
    whole = draw.choice([jpeg, webp])(bytes(data))
    return _case(f"EXIF: {name}", whole, draw.choice([".jpg", ".webp", ""]), draw, materials)


def _upload(draw: random.Random, materials: Materials) -> Hostile:
    name = draw.choice(sorted(FILES.keys() - {"text bomb", "100 megapixels"}))
    return _case(name, FILES[name](draw), draw.choice([".png", ".jpg", ".heic", ".svg", ""]), draw, materials)


def _no_file(draw: random.Random, materials: Materials) -> Hostile:
    name = draw.choice(sorted(_THINGS))
    return _placed(name, _THINGS[name], draw, materials)


_THINGS: dict[str, Callable[[Path], object]] = {
    "a pipe": lambda place: os.mkfifo(place / "x.png"),
    "a pipe without a suffix": lambda place: os.mkfifo(place / "x"),
    "a link to a device": lambda place: (place / "x.png").symlink_to("/dev/zero"),
    "a link to a file of others": lambda place: (place / "x.png").symlink_to("/etc/passwd"),
    "a link to itself": lambda place: (place / "x.png").symlink_to("x.png"),
    "a link to the folder around it": lambda place: (place / "x").symlink_to(place.parent),
    "a link to nothing": lambda place: (place / "x.jpg").symlink_to("gone.jpg"),
    "a folder called a picture": lambda place: (place / "x.png").mkdir(),
    "a name with escapes": lambda place: (place / "\x1b[31m\u202egnp.png").write_bytes(png(8, 8, b"")),
    "a name with a line break": lambda place: (place / "a\n=1+1.png").write_bytes(png(8, 8, b"")),
    "a name that is no UTF-8": lambda place: Path(os.fsdecode(os.fsencode(place) + b"/\xff.png")).write_bytes(b""),
    "a file that may not be read": lambda place: os.chmod(_file(place / "x.png"), 0),  # noqa: PTH101
    "a deep folder": lambda place: place.joinpath(*["d"] * 200).mkdir(parents=True),
}


def _file(path: Path) -> Path:
    path.write_bytes(png(8, 8, zlib.compress(bytes(16))))
    return path
