"""One file for a trained learner: safetensors with JSON metadata, written whole or not at all.

Importing it loads no torch: what a header says is read without.
"""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from continual.backbones import described
from continual.errors import ModelFileError
from continual.files import Header, fetch, store, with_header
from continual.files import read_header as read_any_header
from continual.learning.older_formats import upgraded

if TYPE_CHECKING:
    from torch import Tensor

FORMAT = "equimos-model"
#: the newest format version, see docs/model_file.md; files of earlier ones are read
VERSION = 6
#: the one that a model of several backbones is written in
OF_SEVERAL = 4
#: the one that a model of a single backbone is written in
OF_ONE_BACKBONE = 3
#: if a backbone has a recipe or an edit, or if class names are a prior; the newest if the score of unknown images has a
#: unit
WITH_PARTS = 5
#: what the metadata of every model file holds
KEYS = frozenset({"method", "settings", "backbone", "backbone_embedded", "state", "versions"})


def write(path: str | Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write a model file atomically: an interrupted or failed write leaves the old file as it was.

    Raises ModelFileError if it cannot be written (folder missing or read-only, disk full), or not read again.
    """
    from continual.learning.header import checked

    checked(json.loads(json.dumps(values)))
    version = OF_SEVERAL if "parts" in values["backbone"] else OF_ONE_BACKBONE
    newer = any("recipe" in part for part in described(values["backbone"]))
    newer |= "state/prior" in tensors or any("/mlp/" in name for name in tensors)
    version = VERSION if "state/certainty/largest" in tensors else WITH_PARTS if newer else version
    store(path, tensors, {"format": FORMAT, "version": str(version), "equimos": json.dumps(values)})


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return (tensors, JSON values) of a model file.

    Raises ModelFileError if it is missing, damaged, of a newer version, or not a model file.
    """
    with _readable(path):
        header = read_any_header(path)
        _contents(path, {}, header)  # before any tensor is read
        return _contents(path, fetch(path)[0], header)


def read_header(path: str | Path) -> dict[str, Any]:
    """Return the JSON values of a model file without its tensors; raises as `read` does."""
    return read_contents(path)[1]


def read_contents(path: str | Path, integers: Collection[str] = ()) -> tuple[Header, dict[str, Any]]:
    """Return the header of a model file, with its tensors named in `integers`, and its JSON values; see `read`."""
    with _readable(path):
        header = read_any_header(path, integers)
        return header, _contents(path, {}, header)[1]


def copy(source: Path, target: Path, change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Copy a model file, in the format version that it has, with its JSON values changed; its tensors stay.

    Raises ModelFileError as `read` and `write` do.
    """
    with _readable(source):
        header = read_any_header(source)
        _contents(source, {}, header)
        values = change(json.loads(header.metadata["equimos"]))
        metadata = {**header.metadata, "equimos": json.dumps(values)}
        _contents(source, {}, replace(header, metadata=metadata))
        with_header(source, target, metadata)


@contextmanager
def _readable(path: str | Path) -> Iterator[None]:
    """Raise ModelFileError for whatever goes wrong in reading a file."""
    if not Path(path).is_file():
        raise ModelFileError(f"no model file at {path}")
    try:
        yield
    except ModelFileError:
        raise
    except (OSError, LookupError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ModelFileError(f"{path} is damaged or not a model file ({error}): restore a copy") from error


def _contents(path: str | Path, tensors: dict[str, Tensor], header: Header) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return tensors and JSON values of a file that was written by `write`, as the newest format version has them."""
    from continual.learning.header import checked  # the command's help needs no pydantic

    about = header.metadata
    if about.get("format") != FORMAT:
        raise ModelFileError(f"{path} is a safetensors file, but not a model saved by equimos")
    version = about.get("version", "")
    if not (version.isascii() and version.isdecimal() and int(version[:9]) >= 1):
        raise ValueError(f"its format version is {ascii(version)[:40]}")
    if int(version[:9]) > VERSION:
        raise ModelFileError(f"{path} has format version {version[:9]}: upgrade equimos")
    said = json.loads(about["equimos"], parse_constant=_no_number)
    if missing := KEYS - said.keys():
        raise ModelFileError(f"{path} lacks a part of the model ({', '.join(sorted(missing))}): restore a copy")
    tensors, values = upgraded(int(version), tensors, said)
    try:
        return tensors, checked(values, header.tensors)
    except ModelFileError as error:
        raise ModelFileError(f"{path} is damaged or not a model file ({error}): restore a copy") from None


def _no_number(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number")


def versions() -> dict[str, str]:
    """Return the versions that decide results."""
    from importlib import metadata  # slow to import, and the command's help needs none

    packages = ("equimos", "torch", "torchvision", "timm", "numpy")
    found = {}
    for name in packages:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "unknown"
    return {"python": platform.python_version(), **found}


def join(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put `prefix/` before every name."""
    return {f"{prefix}/{name}": tensor for name, tensor in tensors.items()}


def part(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """Return the tensors under `prefix/`, without it."""
    return {k[len(prefix) + 1 :]: v for k, v in tensors.items() if k.startswith(prefix + "/")}
