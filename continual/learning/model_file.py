"""One file for a trained learner: safetensors with JSON metadata, written whole or not at all."""

from __future__ import annotations

import json
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import safetensors.torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from continual.errors import ModelFileError
from continual.learning.older_formats import upgraded

FORMAT = "equimos-model"
#: the newest format version, see docs/model_file.md; files of earlier ones are read
VERSION = 3
#: what the metadata of every model file holds
KEYS = frozenset({"method", "settings", "backbone", "backbone_embedded", "state", "versions"})


def write(path: str | Path, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Write a model file atomically: an interrupted or failed write leaves the old file as it was.

    Raises ModelFileError if it cannot be written (folder missing or read-only, disk full).
    """
    store(path, tensors, {"format": FORMAT, "version": str(VERSION), "equimos": json.dumps(values)})


def store(path: str | Path, tensors: Mapping[str, Tensor], header: Mapping[str, str]) -> None:
    """Write a safetensors file with any metadata, as `write` does."""
    plain = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()}
    with written(path) as temporary:
        safetensors.torch.save_file(plain, temporary, metadata=dict(header))


@contextmanager
def written(path: str | Path) -> Iterator[Path]:
    """Give a file to be filled, which takes the place of `path` once it is: whole, or not at all.

    Raises ModelFileError if that cannot be done (folder missing or read-only, disk full).
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
    except (OSError, SafetensorError) as error:
        raise ModelFileError(
            f"cannot write {path}: {error}. Free space or choose another path; a file that was there before is "
            f"unchanged"
        ) from error
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def fetch(path: Path, *, header_only: bool = False) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return (tensors, metadata) of any safetensors file; raises OSError or SafetensorError."""
    with safe_open(path, framework="pt") as file:
        if header_only:
            return {}, file.metadata() or {}
        # Copies: sums over memory that is mapped from a file, and not aligned, may round otherwise.
        return {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata() or {}  # noqa: SIM118


def read_header(path: str | Path) -> dict[str, Any]:
    """Return the metadata of a model file without reading its tensors; raises as `read` does."""
    return read(path, header_only=True)[1]


def read(path: str | Path, *, header_only: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return (tensors, metadata) of a model file; no tensors with `header_only`.

    Raises ModelFileError if it is missing, damaged, of a newer version, or not a model file.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelFileError(f"no model file at {path}")
    try:
        tensors, header = fetch(path, header_only=header_only)
        if header.get("format") != FORMAT:
            raise ModelFileError(f"{path} is a safetensors file, but not a model saved by equimos")
        if int(header["version"]) > VERSION:
            raise ModelFileError(f"{path} has format version {header['version']}: upgrade equimos")
        tensors, values = upgraded(int(header["version"]), tensors, json.loads(header["equimos"]))
        if missing := KEYS - dict(values).keys():
            raise ModelFileError(f"{path} lacks a part of the model ({', '.join(sorted(missing))}): restore a copy")
        return tensors, values
    except ModelFileError:
        raise
    except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise ModelFileError(f"{path} is damaged or not a model file ({error}): restore a copy") from error


def versions() -> dict[str, str]:
    """Return the versions that decide results."""
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
