"""What Python itself reports of a piece of work: files written, processes started, addresses asked."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_deeds: list[str] | None = None
_inside = ""
_PROCESSES = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "subprocess.Popen", "os.fork")
_CHANGES = ("os.remove", "os.rename", "os.mkdir", "os.rmdir", "os.truncate", "os.link", "os.symlink", "os.chmod")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _outside(path: Any) -> bool:
    if not isinstance(path, str | bytes | os.PathLike):
        return False  # a number, of what was opened before
    place = os.path.realpath(os.fsdecode(path))
    return place != os.devnull and place != _inside and not place.startswith(_inside + os.sep)


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if _deeds is None:
        return
    if event == "open" and isinstance(args[2], int) and args[2] & _WRITING and _outside(args[0]):
        _deeds.append(f"wrote {args[0]!r}")
    elif event in _CHANGES and any(map(_outside, args[: 2 if event in ("os.rename", "os.link") else 1])):
        _deeds.append(f"{event} {args[:2]!r}")
    elif event.startswith(_PROCESSES) or event in ("socket.connect", "socket.getaddrinfo", "socket.sendto"):
        _deeds.append(f"{event} {args[:2]!r}"[:200])
        raise OSError(f"{event} is refused in this test")


sys.addaudithook(_audit)


@contextmanager
def watched(folder: Path) -> Iterator[list[str]]:
    """Collect what is done outside a folder, and refuse processes and the network; temporary files go to the folder."""
    global _deeds, _inside
    found: list[str] = []
    before = tempfile.tempdir, sys.dont_write_bytecode, Path.cwd()
    tempfile.tempdir, sys.dont_write_bytecode = str(folder), True
    os.chdir(folder)
    _inside, _deeds = os.path.realpath(folder), found
    try:
        yield found
    finally:
        _deeds = None
        tempfile.tempdir, sys.dont_write_bytecode = before[:2]
        os.chdir(before[2])
