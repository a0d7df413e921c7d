"""How often a decoder goes through a JPEG: a small progressive one may ask for hundreds of rounds of all pixels."""

from __future__ import annotations

import io
import re
from contextlib import suppress

from PIL import Image

#: what begins a part of a JPEG: not a byte that was stuffed, nor a marker that stands alone
_PART = re.compile(rb"\xff[^\x00\x01\xd0-\xd8\xff]", re.DOTALL)
_SCAN, _END = 0xDA, 0xD9
#: parts of a JPEG that are looked at; photographs have some tens
PARTS = 5_000
#: bytes before its first scan that belong to no part
GAPS = 2**16
#: tags of a TIFF: where its strips or tiles begin, and how long they are
_PLACES = ((273, 279), (324, 325))


def most_scans(data: bytes) -> int:
    """Count the scans of an image file, see `scans` and `scans_within`; 0 for one of another kind."""
    if data[:2] == b"\xff\xd8":
        return scans(data)
    if data[:2] in (b"II", b"MM"):
        with suppress(Exception), Image.open(io.BytesIO(data), formats=["TIFF"]) as image:
            return scans_within(image, data)
    return 0


def scans(data: bytes) -> int:
    """Count the scans of a JPEG, up to its end or to where it makes no sense; one of too many parts has as many."""
    place, found, skipped = 2, 0, 0
    for _ in range(PARTS):
        part = _PART.search(data, place)
        if not found:  # before the first scan, parts follow each other: a decoder looks for the next one byte by byte
            skipped += (part.start() if part else len(data)) - place
        if skipped > GAPS:
            break
        if part is None or part[0][1] == _END:
            return found
        found += part[0][1] == _SCAN
        place = part.end() + max(2, int.from_bytes(data[part.end() : part.end() + 2]))
    return PARTS


def scans_within(image: Image.Image, data: bytes) -> int:
    """Count the scans of the JPEG that has most of them among the strips of a TIFF, 0 for an image of another kind."""
    tags = getattr(image, "tag_v2", {})
    if image.format != "TIFF" or tags.get(259) not in (6, 7):  # its compression: JPEG
        return 0
    pairs = [pair for begin, size in _PLACES for pair in zip(tags.get(begin, ()), tags.get(size, ()), strict=False)]
    if sum(size for _, size in pairs) > 2 * len(data):  # strips that lie one on the other
        return PARTS
    return max((data.count(b"\xff\xda", begin, begin + size) for begin, size in pairs), default=0)
