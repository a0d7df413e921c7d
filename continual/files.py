"""Files, written whole or not at all; and safetensors files, whose headers are read and rewritten without torch."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import secrets
import shutil
import stat
import struct
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar

from continual.errors import EquimosError, InputError, ModelFileError
from continual.escaping import csv_cell

if TYPE_CHECKING:
    from torch import Tensor

#: the longest header that the format allows, in bytes
LONGEST = 100_000_000
#: whole numbers by their names in the format, as `struct` names them
_INTEGERS = {"BOOL": "?", "U8": "B", "I8": "b", "I32": "i", "I64": "q"}
#: torch's types by their names in the format
_DTYPES = {
    **{f"F{n}": f"float{n}" for n in (16, 32, 64)}, **{f"I{n}": f"int{n}" for n in (8, 16, 32, 64)},
    **{f"U{n}": f"uint{n}" for n in (8, 16, 32, 64)}, "BF16": "bfloat16", "BOOL": "bool", "C64": "complex64",
    "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2",
}  # fmt: skip
#: how often a file that changes while it is read is read again
TRIES = 3
#: nanoseconds in which two changes may have the same time: file systems ask a clock that ticks
TICK = 10_000_000

T = TypeVar("T")


@contextmanager
def written(path: str | Path, kind: type[EquimosError] = ModelFileError) -> Iterator[Path]:
    """Give a file to be filled, which takes the place of `path` once it is: whole, or not at all.

    The new file has the mode of the old one, or else what the umask leaves. File and folder are on the disk when the
    block has ended. Raises an error of that kind if that cannot be done (folder missing or read-only, disk full).
    """
    path, temporary = Path(path), None
    try:
        mode = _mode(path)
        temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
        # Where there was a file of fewer rights, nobody else can read the new one while it is being filled.
        os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666 if mode is None else 0o600))
        mode = stat.S_IMODE(temporary.stat().st_mode) if mode is None else mode
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(mode)  # a library may have put a file of its own there
        temporary.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise kind(
            f"cannot write {path}: {error}. Free space or choose another path; a file that was there before is "
            f"unchanged"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def sync_folder(folder: Path) -> None:
    """Put the names in a folder on the disk: a file that was renamed is lost in a power cut as long as they are not.

    Nothing is done where a system or a file system cannot do that.
    """
    with suppress(OSError):
        place = os.open(folder, os.O_RDONLY | getattr(os, "O_DIRECTORY", 0))
        try:
            os.fsync(place)
        finally:
            os.close(place)


def _mode(path: Path) -> int | None:
    """Return the mode of a file that is there; raises OSError for what a file must not take the place of."""
    try:
        found = path.lstat().st_mode
    except FileNotFoundError:
        return None
    if link := stat.S_ISLNK(found):  # it is replaced, and not what it leads to
        found = path.stat().st_mode if path.exists() else stat.S_IFREG
    if not stat.S_ISREG(found):
        raise OSError("it is a folder or a device, and not a file")
    return None if link else stat.S_IMODE(found) & 0o777


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text atomically; raises InputError if it cannot be written."""
    with written(path, InputError) as place:
        place.write_text(text, encoding="utf-8", newline="")


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically, as `write_text` does."""
    write_text(path, json_text(value))


def json_text(value: Any) -> str:
    r"""Return JSON as it is written everywhere: a value a line.

    >>> json_text([1, "é"])
    '[\n 1,\n "\\u00e9"\n]\n'
    """
    return json.dumps(value, indent=1) + "\n"


def csv_text(lines: Iterable[Iterable[object]], *, exact: bool = False) -> str:
    """Return lines as CSV; None is an empty cell. Text is harmless in a spreadsheet, or `exact`, to be read back."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines if exact else [map(csv_cell, line) for line in lines])
    return text.getvalue()


# Safetensors files -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class StoredTensor:
    """What a header says of a tensor: its type as the format names it, its shape, and where its bytes lie."""

    dtype: str
    shape: tuple[int, ...]
    start: int  #: counted from the end of the header
    end: int

    @property
    def nbytes(self) -> int:
        """The bytes it takes."""
        return self.end - self.start

    @classmethod
    def parse(cls, name: str, entry: Any) -> StoredTensor:
        """Read one entry of a header; raises ValueError for one that does not agree with itself."""
        try:
            found = cls(entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"])
            sizes = (*found.shape, found.start, found.end)
            bits = 8 if found.dtype == "BOOL" else int(re.match(r"(?:[UIFC]|BF)(\d+)", found.dtype)[1])  # type: ignore[index]
            sound = len(sizes) < 64 and all(type(n) is int and n >= 0 for n in sizes)
            sound = sound and math.prod(found.shape) * bits == 8 * found.nbytes
        except (KeyError, TypeError):
            sound = False
        if not sound:
            raise ValueError(f"its header says nonsense of the tensor {name!r}")
        return found


@dataclass(frozen=True)
class Header:
    """The header of a safetensors file, and the values of those tensors of whole numbers that were asked for."""

    metadata: Mapping[str, str]
    tensors: Mapping[str, StoredTensor]
    length: int  #: bytes before the tensors
    integers: Mapping[str, list[int]] = field(default_factory=dict)


def read_header(path: str | Path, integers: Collection[str] = ()) -> Header:
    """Return the header of a safetensors file, and the values of its tensors named in `integers`, as flat lists.

    Raises OSError, and ValueError for a file that is cut off, has bytes that belong to nothing, is of another kind, or
    does not stand still.
    """
    return standing_still(path, lambda file, size: _header(file, size, integers))


def standing_still(path: str | Path, parse: Callable[[BinaryIO, int], T]) -> T:
    """Return what `parse` makes of a file and its size; if the file changed meanwhile, try a few times.

    It is read, and never mapped to memory: a file that is cut short by another process while it is mapped kills this
    one. Raises what `parse` raises, and ValueError for a path that is no file, or a file that does not stand still.
    """
    for attempt in range(TRIES):
        with open(path, "rb", opener=_at_once) as file:
            before = os.fstat(file.fileno())
            if not stat.S_ISREG(before.st_mode):
                raise ValueError("it is a folder or a device, and not a file")
            problem = None
            try:
                found = parse(file, before.st_size)
            except ValueError as error:
                problem = error
            if abs(time.time_ns() - before.st_mtime_ns) < TICK:  # a change within a tick of the clock shows in no time
                time.sleep(TICK / 1e9)
            after = os.fstat(file.fileno())
        if (before.st_size, before.st_mtime_ns) == (after.st_size, after.st_mtime_ns):
            if problem is not None:
                raise problem
            return found
        time.sleep(0.05 * (attempt + 1))
    raise ValueError("it is being written: try again once that has ended")


def _at_once(path: str, flags: int) -> int:
    """Open a file, without waiting for the other end if it is a named pipe."""
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def _header(file: BinaryIO, size: int, integers: Collection[str] = ()) -> Header:
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or not 2 <= length <= min(LONGEST, size - 8):
        raise ValueError(f"no safetensors header in {size} bytes")
    try:
        entries = json.loads(file.read(length).decode())
        metadata = entries.pop("__metadata__", {})
        "".join([*entries, *metadata, *metadata.values()]).encode()  # half a surrogate pair is no text
    except (AttributeError, RecursionError, TypeError, ValueError) as error:
        raise ValueError(f"its header is not a table of names and text: {error}") from None
    tensors = {name: StoredTensor.parse(name, entry) for name, entry in entries.items()}
    spans = sorted((tensor.start, tensor.end) for tensor in tensors.values())
    ends = [(0, 0), *spans, (size - 8 - length,) * 2]
    if any(before[1] != after[0] for before, after in pairwise(ends)):
        raise ValueError("its tensors do not fill the file: it is cut off, or longer than its header says")
    values = {}
    for name in tensors.keys() & set(integers):
        tensor = tensors[name]
        if tensor.dtype not in _INTEGERS:
            raise ValueError(f"{name!r} holds {tensor.dtype}, not whole numbers")
        file.seek(8 + length + tensor.start)
        form = f"<{math.prod(tensor.shape)}{_INTEGERS[tensor.dtype]}"
        content = file.read(tensor.nbytes)
        if len(content) < tensor.nbytes:
            raise ValueError("it is cut off")
        values[name] = list(struct.unpack(form, content))
    return Header(metadata, tensors, 8 + length, values)


def with_header(source: Path, target: Path, metadata: Mapping[str, str]) -> None:
    """Copy a safetensors file with other metadata: its tensors' bytes are streamed as they are.

    Raises ModelFileError if it cannot be written; OSError and ValueError as `read_header` does.
    """

    def copy(tensors: BinaryIO, size: int) -> None:
        old = _header(tensors, size)
        entries = {
            name: {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": (tensor.start, tensor.end)}
            for name, tensor in old.tensors.items()
        }
        values = {"__metadata__": dict(metadata), **entries}
        text = json.dumps(values, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)  # tensors are aligned
        with place.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            tensors.seek(old.length)
            shutil.copyfileobj(tensors, file, 2**20)

    with written(target) as place:
        standing_still(source, copy)


def store(path: str | Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file atomically; raises ModelFileError if it cannot be written."""
    import safetensors.torch

    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with written(path) as place:
        try:
            safetensors.torch.save_file(plain, place, metadata=dict(metadata))
        except safetensors.SafetensorError as error:  # a full disk, say
            raise OSError(str(error)) from error


def fetch(path: str | Path, prefix: str = "") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return (tensors whose names begin so, metadata) of a safetensors file.

    Raises OSError, and ValueError for a file that is damaged or does not stand still.
    """
    import torch

    def parse(file: BinaryIO, size: int) -> tuple[dict[str, Tensor], dict[str, str]]:
        header, tensors = _header(file, size), {}
        for name, tensor in header.tensors.items():
            if not name.startswith(prefix):
                continue
            if tensor.dtype not in _DTYPES:
                raise ValueError(f"{name!r} holds {tensor.dtype}, of which torch has no numbers")
            flat = torch.empty(tensor.nbytes, dtype=torch.uint8)
            file.seek(header.length + tensor.start)
            if file.readinto(flat.numpy()) < tensor.nbytes:  # type: ignore[attr-defined]
                raise ValueError("it is cut off")
            tensors[name] = flat.view(getattr(torch, _DTYPES[tensor.dtype])).reshape(tensor.shape)
        return tensors, dict(header.metadata)

    return standing_still(path, parse)
