"""Files that a list names, be it a manifest or a table: strangers write lists, so not every file is read for them."""

from __future__ import annotations

import os
import stat
from pathlib import Path

#: what to say of a file that is refused for its place
ALLOW = "data.outside=true (--outside) allows it"
GONE = "is not there"


def refused(path: Path, within: Path | None) -> str | None:
    """Say why a file is not read, or nothing: it is no regular file, or lies, or leads, outside of `within`.

    Its place is looked at first, so that nothing is said of what there is elsewhere.
    """
    try:
        if within is not None and not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(within)):
            return f"lies outside {within}, or is a link that leads out: {ALLOW}"
        kind = path.stat().st_mode
    except (OSError, ValueError):
        return GONE
    return None if stat.S_ISREG(kind) else "is no regular file"


def read_regular(path: Path) -> bytes:
    """Return what is in a regular file; raises OSError, at once, for a folder, a pipe or a device."""
    number = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(number, "rb") as file:
        if not stat.S_ISREG(os.fstat(number).st_mode):
            raise OSError(None, "it is no regular file", str(path))
        return file.read()
