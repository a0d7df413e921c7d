"""Locks between processes, that end with their owner however it ends; and who may replace a model file."""

from __future__ import annotations

import errno
import os
import platform
import stat
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from continual.errors import InputError, ModelFileError

#: bytes that the name of an owner takes at most
LONGEST = 200
#: what file systems without locks say
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
#: device, inode, bytes and time of change of a file; None where there is none
Identity = tuple[int, int, int, int] | None


class NoLocksError(InputError):
    """A system or a file system without locks."""


@contextmanager
def held(path: Path, *, wait: bool = False) -> Iterator[bool]:
    """Hold a lock file in the block, if it is free; yield whether it is held. With `wait`, wait for it.

    The lock is the operating system's own (a POSIX record lock), so that of a process that was killed is
    free at once; the file names the owner for people, see `owner`. It is removed at the end.

    Raises InputError where the file system has no locks, or what lies there is not a lock file of its own.
    """
    file = _locked(path, wait)
    if file is None:
        yield False
        return
    try:
        with suppress(OSError):  # a full disk: the lock holds, though nobody can read whose it is
            os.truncate(file, 0)
            who = f"process {os.getpid()} on {platform.node()}, since {datetime.now():%Y-%m-%d %H:%M}"
            os.write(file, who.encode()[:LONGEST])
        yield True
    finally:
        path.unlink(missing_ok=True)
        os.close(file)


def owner(path: Path) -> str:
    """Return who holds a lock, or held it last."""
    try:
        file = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
        try:
            return os.read(file, LONGEST).decode(errors="replace") or "another process"
        finally:
            os.close(file)
    except OSError:
        return "another process"


@dataclass
class Claim:
    """A file that this process alone may replace, and what it was when it was claimed."""

    file: Path
    found: Identity
    thread: int

    def check(self) -> None:
        """Raise ModelFileError if somebody has changed the file all the same, who asks for no lock."""
        if identity(self.file) != self.found:
            raise ModelFileError(
                f"{self.file} was changed by another program meanwhile, and is left as that made it: do it again"
            )

    def replaced(self) -> None:
        """Take the file as it is now for one's own."""
        self.found = identity(self.file)


def identity(file: Path) -> Identity:
    """Return which file lies at a path: another one, or the same one changed, has another identity."""
    try:
        found = file.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


#: what this process has claimed, by its id, which a copy of it has not
_claims: dict[tuple[int, Path], Claim] = {}


@contextmanager
def claimed(file: Path) -> Iterator[Claim]:
    """Let no other process that claims it replace a file in the block, nor another thread; a block may lie in another.

    The lock lies beside the file itself, `.NAME.lock`, so that it binds whoever can write there: other users, jobs and
    containers. One that a killed process left is in nobody's way. Where there are no locks, `Claim.check` still finds
    what others changed. Raises InputError that names the process that has claimed the file.
    """
    file = Path(os.path.realpath(file))
    key, claim = (os.getpid(), file), Claim(file, None, threading.get_ident())
    lock, own = file.with_name(f".{file.name}.lock"), _claims.setdefault(key, claim)
    if own is not claim:
        if own.thread != claim.thread:
            raise InputError(f"{file} is being written by another thread: wait until that has ended")
        yield own
        return
    try:
        with ExitStack() as stack:
            try:
                mine = stack.enter_context(held(lock))
            except NoLocksError:
                mine = True
            if not mine:
                raise InputError(f"{file} is being written by {owner(lock)}: wait until that has ended")
            claim.replaced()
            yield claim
    finally:
        del _claims[key]


def _locked(path: Path, wait: bool) -> int | None:
    try:
        import fcntl
    except ImportError:  # not a POSIX system
        raise NoLocksError(f"cannot lock {path}: this system has no POSIX locks") from None
    while True:
        file = _opened(path)
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            if os.path.samestat(path.lstat(), os.fstat(file)):
                return file
        except FileNotFoundError:
            pass  # removed between two looks
        except OSError as error:
            os.close(file)
            if error.errno in (errno.EACCES, errno.EAGAIN):
                return None
            kind = NoLocksError if error.errno in _NO_LOCKS else InputError
            raise kind(f"cannot lock {path} ({error.strerror}): choose a folder on another file system") from None
        os.close(file)  # its last owner removed the file in between: this lock would bind no one


def _opened(path: Path) -> int:
    """Open a lock file, and nothing that somebody has put in its place: its content is written over."""
    try:
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        link = error.errno == errno.ELOOP
        said = "it is a link: remove it" if link else f"{error.strerror}: choose a folder that you may write in"
        raise InputError(f"cannot lock {path} ({said})") from None
    found = os.fstat(file)
    if stat.S_ISREG(found.st_mode) and found.st_nlink <= 1:
        return file
    os.close(file)
    raise InputError(f"cannot lock {path} (it is no file of its own: remove it)")
