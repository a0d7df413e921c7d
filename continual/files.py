"""Files, written whole or not at all; and safetensors files, whose headers are read and rewritten without torch."""

from __future__ import annotations

import csv
import io
import json
import math
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

from continual.errors import EquimosError, InputError, ModelFileError

if TYPE_CHECKING:
    from torch import Tensor

#: the longest header that the format allows, in bytes
LONGEST = 100_000_000
#: whole numbers by their names in the format, as `struct` names them
_INTEGERS = {"BOOL": "?", "U8": "B", "I8": "b", "I32": "i", "I64": "q"}


@contextmanager
def written(path: str | Path, kind: type[EquimosError] = ModelFileError) -> Iterator[Path]:
    """Give a file to be filled, which takes the place of `path` once it is: whole, or not at all.

    Raises an error of that kind if that cannot be done (folder missing or read-only, disk full).
    """
    path, temporary = Path(path), None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
        temporary = Path(name)
        os.close(handle)
        yield temporary
        with temporary.open("rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        raise kind(
            f"cannot write {path}: {error}. Free space or choose another path; a file that was there before is "
            f"unchanged"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


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


def csv_text(lines: Iterable[Iterable[object]]) -> str:
    """Return lines as CSV; None is an empty cell."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(lines)
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

    Raises OSError, and ValueError for a file that is cut off, has bytes that belong to nothing, or is of another kind.
    """
    with Path(path).open("rb") as file:
        size = os.fstat(file.fileno()).st_size
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
            values[name] = list(struct.unpack(form, file.read(tensor.nbytes)))
    return Header(metadata, tensors, 8 + length, values)


def with_header(source: Path, target: Path, metadata: Mapping[str, str]) -> None:
    """Copy a safetensors file with other metadata: its tensors' bytes are streamed as they are.

    Raises ModelFileError if it cannot be written; OSError and ValueError as `read_header` does.
    """
    old = read_header(source)
    entries = {
        name: {"dtype": tensor.dtype, "shape": tensor.shape, "data_offsets": (tensor.start, tensor.end)}
        for name, tensor in old.tensors.items()
    }
    text = json.dumps({"__metadata__": dict(metadata), **entries}, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # tensors are aligned
    with written(target) as place, source.open("rb") as tensors, place.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        tensors.seek(old.length)
        shutil.copyfileobj(tensors, file, 2**20)


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

    Raises OSError, and ValueError for a file that is damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            # Copies: sums over memory that is mapped from a file, and not aligned, may round otherwise.
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118
            return {name: file.get_tensor(name).clone() for name in names}, file.metadata() or {}
    except SafetensorError as error:
        raise ValueError(str(error)) from error
