"""Local weights files: known by what is in them, and read, never run.

`continual.backbones.fitting` finds the network in what they hold.
"""

from __future__ import annotations

import argparse
import json
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile, is_zipfile

import numpy as np
import torch
from torch import Tensor

from continual.errors import BackboneError
from continual.files import fetch

#: under what training programs keep a network's tensors in a checkpoint, averaged weights before those in training
WRAPPERS = (
    "state_dict_ema", "model_ema", "ema", "ema_state_dict", "state_dict", "model", "model_state_dict", "model_state",
    "teacher", "student", "target_encoder", "net", "network", "backbone", "encoder", "module", "params", "weights",
)  # fmt: skip
#: how deep wrappers are followed: a file may hold itself
NESTED = 16


def read_weights(path: Path) -> tuple[dict[str, Tensor] | None, dict[str, Any]]:
    """Return (state, metadata) of a local weights file, whatever its suffix.

    That is safetensors, npz, or a checkpoint of torch, in which the tensors may lie under one of `WRAPPERS`. The state
    of a JAX-layout npz is left to timm: None. Raises BackboneError for a file that is missing, damaged, of another
    kind, or holds more than weights: nothing in it is run.
    """
    if not path.is_file():
        raise BackboneError(f"no weights file at {path}")
    try:
        kind = _kind(path)
        if kind == "safetensors":
            tensors, metadata = fetch(path)
            if metadata.get("format") == "equimos-model":
                raise BackboneError(f"{path} is a model, not a backbone: give the weights of the network that it is on")
            return tensors, {k: _plain(v) for k, v in metadata.items()}
        if kind == "npz":
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                if any("Transformer/" in key for key in arrays.files):
                    return None, {}
                return {key: torch.from_numpy(arrays[key]) for key in arrays.files}, {}
        return _state_in(_unpickled(path), path), {}
    except BackboneError:
        raise
    except (BadZipFile, ValueError, TypeError, OSError, RuntimeError, KeyError, EOFError) as error:
        raise BackboneError(f"{path} is not a readable weights file: {error}") from error


def noted(metadata: Mapping[str, Any]) -> tuple[str | None, dict[str, Any]]:
    """Return the network's name and its arguments from a file's metadata.

    Those of a file that names no network (`timm`) are not meant for one. Raises BackboneError for a name that is none.
    """
    name = metadata.get("timm")
    if name is not None and not isinstance(name, str):
        raise BackboneError(f"the weights file's metadata name the network {str(name)[:80]!r}: give its name")
    others = ("timm", "format", "recipe", "preprocessing")
    return name, {k: v for k, v in metadata.items() if k not in others} if name else {}


def _kind(path: Path) -> str:
    """Return what a file is: "safetensors", "npz" or "torch"; raises BackboneError for what is none of them."""
    if is_zipfile(path):
        with ZipFile(path) as archive:
            return "npz" if any(name.endswith(".npy") for name in archive.namelist()) else "torch"
    with path.open("rb") as file:
        start = file.read(512)
    if start[8:9] == b"{":
        return "safetensors"
    # A pickle, or the archive of torch before 0.1.10.
    if start[:1] == b"\x80" or start[257:262] == b"ustar":
        return "torch"
    raise BackboneError(
        f"{path} holds no weights, or is damaged: weights must be safetensors, npz, or a checkpoint of torch "
        "(.pth, .pt, .bin, .ckpt, .tar)"
    )


def _unpickled(path: Path) -> Any:
    """Return what a checkpoint holds, without running code of it; raises BackboneError for one that needs it."""
    try:
        # What the options of most training programs are kept in: it only takes values.
        allowed = torch.serialization.safe_globals([argparse.Namespace, *_numbers()])
        with path.open("rb") as file, allowed, warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Detected pickle protocol")
            return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as error:  # torch's weights-only unpickler raises pickle's UnpicklingError
        if type(error).__name__ != "UnpicklingError":
            raise
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        holds = f"it holds a {named[1]}" if named else "it is damaged, or holds more than numbers and text"
        raise BackboneError(
            f"{path} is a checkpoint that only runs its code to be opened ({holds}), and was not opened: where you "
            "trust it, load it with torch.load(..., weights_only=False) and save the model's state_dict() alone"
        ) from error


def _numbers() -> list[Any]:
    """Return what numpy's numbers are made of in a pickle: losses and accuracies are often kept as such."""
    try:
        from numpy._core.multiarray import scalar
    except ImportError:  # numpy 1
        from numpy.core.multiarray import scalar  # type: ignore[no-redef]
    kinds = {type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)}
    return [(scalar, "numpy._core.multiarray.scalar"), (scalar, "numpy.core.multiarray.scalar"), np.dtype, *kinds]


def _state_in(found: Any, path: Path) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint, from below its wrappers.

    Where none of `WRAPPERS` is there, tensors of all parts, named `PART.NAME`: which network it is, names decide later.
    """
    for _ in range(NESTED):
        if not isinstance(found, Mapping):
            break
        inside = {key: value for key, value in found.items() if isinstance(value, Mapping)}
        key = next((key for key in WRAPPERS if inside.get(key)), None)
        if key is None:
            break
        found = inside[key]
    tensors = _below(found) if isinstance(found, Mapping) else {}
    if not tensors:
        what = (
            f"its parts are {', '.join(map(str, found))[:200]}" if isinstance(found, Mapping) else type(found).__name__
        )
        raise BackboneError(f"{path} holds no weights ({what}): save the model's state_dict()")
    return {name: tensor.detach() for name, tensor in tensors.items()}


def _below(found: Mapping[Any, Any]) -> dict[str, Tensor]:
    """Return a checkpoint's own tensors; those of its parts, if it has none.

    Each part is looked into once: a file may name one from many places, or from within itself.
    """
    seen, waiting = {id(found)}, [("", found)]
    tensors: dict[str, Tensor] = {}
    while waiting:
        prefix, part = waiting.pop()
        own = {f"{prefix}{key}": value for key, value in part.items() if isinstance(value, Tensor)}
        tensors |= own
        for key, value in part.items() if not own else ():
            if isinstance(value, Mapping) and id(value) not in seen:
                seen.add(id(value))
                waiting.append((f"{prefix}{key}.", value))
    return tensors


def _plain(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text
