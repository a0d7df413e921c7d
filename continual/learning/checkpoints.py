"""Work in progress in files: written whole or not at all, and believed only if their checksum agrees.

A checkpoint is one safetensors file. Its metadata hold the structure as JSON, and the SHA-256 of everything.
"""

import hashlib
import json
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from continual import distributed
from continual.learning import model_file

FORMAT = "equimos-checkpoint"


def write(path: Path, value: Any) -> None:
    """Write nested dicts, lists and tuples of tensors and JSON scalars atomically.

    Raises ModelFileError if it cannot be written (disk full, say); a file that was there before stays.
    """
    tensors: dict[str, Tensor] = {}
    structure = json.dumps(_flattened(value, tensors))
    model_file.store(path, tensors, {"format": FORMAT, "structure": structure, "sha256": digest(structure, tensors)})


def read(path: Path) -> Any | None:
    """Return what was written, or None if there is no such file or it is damaged."""
    try:
        tensors, header = model_file.fetch(path)
        if header["format"] != FORMAT or header["sha256"] != digest(header["structure"], tensors):
            return None
        return _restored(json.loads(header["structure"]), tensors)
    except (OSError, SafetensorError, KeyError, ValueError):
        return None


def _flattened(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Return JSON in which containers are tagged, dicts keep their keys' types, and tensors are named."""
    if isinstance(value, Tensor):
        tensors[str(len(tensors))] = value
        return {"tensor": str(len(tensors) - 1)}
    if isinstance(value, Mapping):
        return {"dict": [[_flattened(k, tensors), _flattened(v, tensors)] for k, v in value.items()]}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [_flattened(v, tensors) for v in value]}
    return value


def _restored(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "dict":
        return {_restored(k, tensors): _restored(v, tensors) for k, v in inner}
    items = [_restored(v, tensors) for v in inner]
    return tuple(items) if kind == "tuple" else items


def digest(structure: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a text and of tensors with their names."""
    found = hashlib.sha256(structure.encode())
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)};".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


class CheckpointFolder:
    """The last two of the checkpoints `<prefix>-<number>.safetensors` in a folder.

    It is a `continual.learning.training.Checkpoints`. If the newest is damaged, the one before is used. The folder is
    made with the first checkpoint.
    """

    def __init__(self, folder: Path, prefix: str = "epoch") -> None:
        self.folder, self.prefix = folder, prefix
        self._started, self._before = time.perf_counter(), 0.0

    def latest(self) -> tuple[int, Any] | None:
        """Return the newest checkpoint that is whole as (number, value), or None."""
        for number in reversed(self.numbers()):
            found = read(self.path(number))
            if found is not None:
                self._started, self._before = time.perf_counter(), found["seconds"]
                return number, found["value"]
        return None

    def keep(self, number: int, value: Any) -> None:
        """Write a checkpoint, then remove all but it and the one before; of several processes the first does."""
        if not distributed.first():
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        write(self.path(number), {"value": value, "seconds": self.seconds()})
        for old in self.numbers()[:-2]:
            self.path(old).unlink()

    def seconds(self) -> float:
        """Return the time spent until now, that before the checkpoint it went on from included."""
        return self._before + time.perf_counter() - self._started

    def numbers(self) -> list[int]:
        """Return the numbers of the files that are there, damaged or not, in order."""
        pattern = re.compile(re.escape(self.prefix) + r"-(\d+)\.safetensors")
        files = self.folder.iterdir() if self.folder.is_dir() else ()
        return sorted(int(match[1]) for file in files if (match := pattern.fullmatch(file.name)))

    def path(self, number: int) -> Path:
        """Return where a checkpoint is, or would be."""
        return self.folder / f"{self.prefix}-{number}.safetensors"
