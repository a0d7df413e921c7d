"""Files that are written whole or not at all."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def written(path: str | Path) -> Iterator[Path]:
    """Give a file to be filled, which takes the place of `path` once it is: whole, or not at all.

    File and folder are on the disk when the block has ended. Raises OSError, and leaves what was there, otherwise.
    """
    path = Path(path)
    place = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield place
        with place.open("rb+") as file:
            os.fsync(file.fileno())
        place.replace(path)
        with suppress(OSError):  # some systems and file systems cannot sync a folder
            folder = os.open(path.parent, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
    finally:
        place.unlink(missing_ok=True)


def save_figure(figure: Any, path: str | Path, dpi: int = 150) -> None:
    """Write a matplotlib figure in the format of its suffix, PNG without one."""
    path = Path(path)
    path = path if path.suffix else path.with_suffix(".png")
    with written(path) as place:
        figure.savefig(place, dpi=dpi, format=path.suffix[1:].lower())
