"""Locks between processes, that end with their owner however it ends."""

from __future__ import annotations

import errno
import os
import platform
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from hashlib import sha256
from pathlib import Path

from continual.errors import InputError


@contextmanager
def held(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold a lock file in the block, if it is free; yield whether it is held. With `wait`, wait for it.

    The lock is the operating system's own (a POSIX record lock), so that of a process that was killed is
    free at once; the file names the owner for people, see `owner`. It is removed at the end.

    Raises InputError where the file system has no locks.
    """
    file = _locked(path, wait)
    if file is None:
        yield False
        return
    try:
        os.truncate(file, 0)
        os.write(file, f"process {os.getpid()} on {platform.node()}, since {datetime.now():%Y-%m-%d %H:%M}".encode())
        yield True
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


def owner(path: Path) -> str:
    """Return who holds a lock, or held it last."""
    try:
        return path.read_text() or "another process"
    except OSError:
        return "another process"


@contextmanager
def claimed(file: Path) -> Iterator[None]:
    """Let no other process that claims it replace a file in the block.

    The lock lies among the temporary files, so that a process that is killed leaves nothing beside the file: it
    binds one user's processes on this machine, and nobody where there are no POSIX locks. Raises InputError that
    names the process that has claimed the file.
    """
    if os.name != "posix":
        yield
        return
    name = sha256(str(file.resolve()).encode()).hexdigest()[:16]
    lock = Path(tempfile.gettempdir()) / f"equimos-{os.getuid()}-{name}.lock"
    with held(lock) as mine:
        if not mine:
            raise InputError(f"{file} is being written by {owner(lock)}: wait until that has ended")
        yield


def _locked(path: Path, wait: bool) -> int | None:
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        raise InputError(f"cannot lock {path}: this system has no POSIX locks") from None
    while True:
        file = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if path.exists() and os.path.samestat(path.stat(), os.fstat(file)):
                return file
        except OSError as error:
            os.close(file)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return None
            raise InputError(f"cannot lock {path} ({error.strerror}): choose a folder on another file system") from None
        os.close(file)  # its last owner removed the file in between: this lock would bind no one
