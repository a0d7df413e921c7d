"""What a file is, by its content; its name counts only where the content cannot tell.

That is a TGA without a footer, and camera raw files, which begin as TIFF. Part of the stand-alone runner: see
`continual.export.standalone`.
"""

from __future__ import annotations

import io
import re
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

#: Pillow's names of what is read; every further one is a decoder that strangers may try
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM", "TGA", "ICO", "AVIF", "HEIF")
#: suffixes that promise one of them: such a file that holds something else is broken, and not overlooked
SUFFIXES = {
    suffix: kind
    for kind, suffixes in {
        "JPEG": ".jpg .jpeg .jpe .jfif .pjpeg .pjp",
        "PNG": ".png .apng",
        "WEBP": ".webp",
        "BMP": ".bmp",
        "GIF": ".gif",
        "TIFF": ".tif .tiff",
        "PPM": ".ppm .pgm .pbm .pnm",
        "TGA": ".tga",
        "ICO": ".ico",
        "AVIF": ".avif",
        "HEIF": ".heic .heif .hif",
    }.items()
    for suffix in suffixes.split()
}
RAW_SUFFIXES = frozenset([".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".orf", ".rw2", ".pef", ".srw", ".raf"])

_HEAD, _TAIL = 512, 26  # bytes that are looked at to know what a file is
_STARTS = [
    (kind, re.compile(start, re.DOTALL))
    for kind, start in (
        ("JPEG", rb"\xff\xd8\xff"),
        ("PNG", rb"\x89PNG\r\n\x1a\n"),
        ("WEBP", rb"RIFF....WEBP"),
        ("GIF", rb"GIF8[79]a"),
        ("BMP", rb"BM.{12}[\x0c\x10\x28\x34\x38\x40\x6c\x7c]\0\0\0"),
        ("camera raw", rb"FUJIFILMCCD-RAW|II\*\0....CR|....ftypcrx |IIU\0|IIR[OS]"),
        ("TIFF", rb"II[*+]\0|MM\0[*+]|II\0\*|MM\*\0"),
        ("PPM", rb"P[1-6]\s(?:\s|#[^\n]*(?:\n|\Z))*(?:\d|\Z)|Pf\s"),
        ("ICO", rb"\0\0\x01\0[^\0]\0...\0[\0\x01]\0"),
        ("AVIF", rb"....ftyp(?:avi[fs]|(?:mif1|msf1|miaf)....(?:.{4})*?avi[fs])"),
        ("HEIF", rb"....ftyp(?:hei[cxms]|hev[cxms]|mif1|msf1|miaf)"),
        ("JPEG 2000", rb"\0\0\0\x0cjP  |\xff\x4f\xff\x51"),
        ("JPEG XL", rb"\xff\x0a|\0\0\0\x0cJXL "),
        ("SVG", rb"\s*(?:<\?xml[^>]*>\s*)?(?:<!--.*?-->\s*)?(?:<!DOCTYPE[^>]*>\s*)?<svg[\s>]"),
        ("Photoshop", rb"8BPS"),
        ("OpenEXR", rb"\x76\x2f\x31\x01"),
        ("Radiance HDR", rb"#\?R(?:ADIANC|GB)E"),
        ("DICOM", rb".{128}DICM"),
    )
]
#: pictures of kinds that are not read; people who have them wonder
_UNREAD_SUFFIXES = {
    ".jp2": "JPEG 2000", ".j2k": "JPEG 2000", ".jxl": "JPEG XL", ".svg": "SVG", ".psd": "Photoshop",
    ".exr": "OpenEXR", ".dcm": "DICOM", **dict.fromkeys(RAW_SUFFIXES, "camera raw"),
}  # fmt: skip


class UnreadableError(ValueError):
    """A file or picture that is not taken: why, and whether it is `unknown`, too `large`, `damaged` or `unusable`."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


def kind_of(file: BinaryIO, suffix: str = "") -> str | None:
    """Return what a file holds: one of `FORMATS`, another kind of picture, or None; it is left at its beginning."""
    head = file.read(_HEAD)
    size = file.seek(0, io.SEEK_END)
    file.seek(max(size - _TAIL, 0))
    tail = file.read(_TAIL)
    file.seek(0)
    for kind, start in _STARTS:
        if start.match(head):
            return "camera raw" if kind == "TIFF" and suffix.lower() in RAW_SUFFIXES else kind
    named = suffix.lower() in (".tga", ".icb", ".vda", ".vst") and head[1:2] in (b"\0", b"\1")
    return "TGA" if named or tail[8:].startswith(b"TRUEVISION-XFILE") else None


def kind_at(path: Path) -> str | None:
    """Return what lies at a path: one of `FORMATS`, another kind of picture, or None for what is no picture.

    A suffix of `SUFFIXES` is believed without a look: if it lies, opening the file says so. That of HEIF is not, as
    it may need what is not installed, and is often found on JPEG files.
    """
    suffix = path.suffix.lower()
    promised = SUFFIXES.get(suffix)
    if promised not in (None, "HEIF"):
        return promised
    kind = None
    with suppress(OSError):
        if path.is_file():  # a pipe would never open
            with path.open("rb") as file:
                kind = kind_of(file, suffix)
    return kind or promised or _UNREAD_SUFFIXES.get(suffix)


def is_read(kind: str | None) -> bool:
    """Tell whether files of a kind are read here: HEIF needs the extra."""
    return kind in FORMATS and (kind != "HEIF" or heif() is not None)


def heif() -> Any:
    """Return what opens HEIF (HEIC) files, None without the extra."""
    try:
        from pillow_heif import HeifImageFile
    except ImportError:
        return None
    return HeifImageFile
