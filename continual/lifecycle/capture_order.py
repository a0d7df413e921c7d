"""In which order pictures were taken, as far as they say: by their EXIF, else by running numbers in their names.

The times of files are not asked: copying, unpacking and synchronising set them to when that was done.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import ExifTags, Image

#: how the order is known, as the plan says it
BY_EXIF, BY_NAMES = "the time in their EXIF", "the numbers in their names (a guess)"


def in_order(paths: Sequence[Path]) -> tuple[list[int], str] | None:
    """Return the places of pictures in the order in which they were taken, and how it is known; None if it is not.

    All have to say it in the same way, and differently: EXIF times of which half are one and the same are none.
    """
    by_exif, by_names = [exif_time(path) for path in paths], numbers([path.stem for path in paths])
    for said, keys in ((BY_EXIF, by_exif), (BY_NAMES, by_names)):
        known: list[Any] = [key for key in keys if key is not None]
        if len(known) == len(paths) and 2 * len(set(known)) > len(paths):
            return sorted(range(len(paths)), key=lambda place: (known[place], paths[place].name)), said
    return None


def exif_time(path: Path) -> str | None:
    """Return when a picture was taken, as text that sorts; None if it does not say."""
    try:
        with Image.open(path) as image:
            exif = image.getexif()
            own = exif.get_ifd(ExifTags.IFD.Exif)
            taken = own.get(ExifTags.Base.DateTimeOriginal) or exif.get(ExifTags.Base.DateTime)
            part = str(own.get(ExifTags.Base.SubsecTimeOriginal, "")).strip()
    except Exception:  # every format has its own for EXIF that is damaged
        return None
    text = str(taken or "").strip("\0 ")
    return f"{text}.{part}" if re.fullmatch(r"[1-9]\d{3}:\d\d:\d\d \d\d:\d\d:\d\d", text) else None


def numbers(names: Sequence[str]) -> list[tuple[int, ...] | None]:
    """Return the numbers in names that are otherwise the same; None for all of them if they are not.

    >>> numbers(["belt_0009", "belt_0010"]), numbers(["left", "right"])
    ([(9,), (10,)], [None, None])
    """
    if len({re.sub(r"\d+", "0", name) for name in names}) != 1 or not re.search(r"\d", names[0]):
        return [None] * len(names)
    return [tuple(map(int, re.findall(r"\d+", name))) for name in names]
