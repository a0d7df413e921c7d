"""Local weights files: read, never run, and fitted to a model."""

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from timm.models import load_state_dict
from torch import Tensor

from continual.errors import BackboneError
from continual.files import fetch


def read_weights(path: Path) -> tuple[dict[str, Tensor] | None, dict[str, Any]]:
    """Return (state, metadata) of a local weights file; the state of a JAX-layout npz is left to timm."""
    if not path.is_file():
        raise BackboneError(f"no weights file at {path}")
    try:
        if path.suffix == ".safetensors":
            tensors, metadata = fetch(path)
            return tensors, {k: _plain(v) for k, v in metadata.items()}
        if path.suffix == ".npz":
            with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
                if any("Transformer/" in key for key in arrays.files):
                    return None, {}
                return {key: torch.from_numpy(arrays[key]) for key in arrays.files}, {}
        if path.suffix in (".pth", ".pt", ".bin"):
            return load_state_dict(str(path), weights_only=True), {}
    except (BadZipFile, ValueError, OSError, RuntimeError, KeyError, EOFError) as error:
        raise BackboneError(f"{path} is not a readable {path.suffix} file: {error}") from error
    except Exception as error:  # torch's weights-only unpickler raises pickle.UnpicklingError
        raise BackboneError(
            f"{path} is damaged or holds more than weights, and was not opened: save the model's state_dict()"
        ) from error
    raise BackboneError(f"{path}: weights must be .safetensors, .npz or .pth, got {path.suffix!r}")


def _plain(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def fill(
    vit: Any,
    state: dict[str, Tensor] | None,
    path: Path,
    name: str,
    convert: Callable[..., Mapping[str, Tensor]] | None = None,
) -> None:
    """Load a local state into a model: everything but a classification head must fit, or BackboneError is raised.

    `convert(state, model)` knows the layouts in which such states are found; by default timm's own for the model.
    """
    layouts: Any = convert or getattr(sys.modules[type(vit).__module__], "checkpoint_filter_fn", lambda state, _: state)
    try:
        if state is None:
            vit.load_pretrained(str(path))
            return
        state = {k: v.float() if v.is_floating_point() else v for k, v in layouts(state, vit).items()}
    except (KeyError, RuntimeError, ValueError, AssertionError, AttributeError) as error:
        raise BackboneError(f"{path} does not fit {name!r}: {type(error).__name__} {error}") from error
    own = vit.state_dict()
    state = {k: v for k, v in state.items() if k in own or not k.startswith(("head.", "fc.", "classifier."))}
    problems = [f"{k} is missing" for k in own if k not in state]
    problems += [f"{k} is not part of the model" for k in state if k not in own]
    problems += [
        f"{k} is {tuple(state[k].shape)} in the file but {tuple(own[k].shape)} in the model"
        for k in own
        if k in state and state[k].shape != own[k].shape
    ]
    if problems:
        more = f" and {len(problems) - 3} more" if len(problems) > 3 else ""
        raise BackboneError(
            f"{path} does not fit {name!r}: {'; '.join(problems[:3])}{more}. "
            f"Check the model's name, and give model arguments such as img_size or depth if it differs"
        )
    vit.load_state_dict(state)
