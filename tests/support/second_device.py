"""A second device on a machine that has none: tensors that say they lie elsewhere, and refuse to be mixed with others.

In the block of `second_device` a tensor made on `DEVICE`, or moved there, keeps its numbers on the CPU, so all answers
can be checked; but, as on a GPU, an operation on tensors of both devices raises, numbers reach NumPy by way of `.cpu()`
alone, and chance there comes from generators that were made for it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map

#: torch knows it everywhere, and no code of ours uses it
DEVICE = torch.device("meta")

#: operations that a GPU does on tensors of two devices: copies, and rows by indices of the CPU
MIXED = ("copy_", "_to_copy", "index", "index_put", "index_put_", "_index_put_impl_")


_TORCHS = torch.Generator


class There(torch.Tensor):
    """A tensor on the second device; `here` holds its numbers."""

    here: torch.Tensor

    @staticmethod
    def __new__(cls, here: torch.Tensor) -> There:
        made = torch.Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls, here.size(), strides=here.stride(), storage_offset=here.storage_offset(), dtype=here.dtype,
            device=DEVICE, requires_grad=here.requires_grad,
        )  # fmt: skip
        made.here = here.detach()
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation on the numbers."""
        return _run(function, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        """Say where it lies."""
        return f"There({self.here!r})"


class GeneratorThere(torch.Generator):
    """A generator for the second device."""

    device = property(lambda self: DEVICE)  # type: ignore[assignment]


class _Generator(torch.Generator):
    """What makes the one or the other, in place of torch's own."""

    def __new__(cls, device: Any = "cpu") -> torch.Generator:  # type: ignore[misc]
        there = torch.device(device) == DEVICE
        return _TORCHS.__new__(GeneratorThere) if there else _TORCHS.__new__(_TORCHS, device)


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    name, leaves = function._schema.name.split("::")[1], tree_flatten((args, kwargs))[0]
    tensors = [leaf for leaf in leaves if isinstance(leaf, torch.Tensor)]
    there = [tensor for tensor in tensors if isinstance(tensor, There)]
    if there and name not in MIXED and any(not isinstance(t, There) and t.ndim for t in tensors):
        raise RuntimeError(f"Expected all tensors to be on the same device, but {function} was given both")
    asked = kwargs.get("device")
    to = asked is not None and torch.device(asked) == DEVICE
    if asked is not None:
        kwargs = {**kwargs, "device": torch.device("cpu")}
    inner = [tree_map(lambda leaf: leaf.here if isinstance(leaf, There) else leaf, part) for part in (args, kwargs)]
    found = function(*inner[0], **inner[1])
    lands = to if asked is not None else isinstance(args[0], There) if name == "copy_" else bool(there)
    if not lands:
        return found
    found = tree_map(lambda leaf: There(leaf) if isinstance(leaf, torch.Tensor) else leaf, found)
    return return_and_correct_aliasing(function, args, kwargs, found) if asked is None else found


class _Elsewhere(TorchDispatchMode):
    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(function, args, kwargs or {})


class _Asking(TorchFunctionMode):
    """Does what no dispatch mode is told of: generators with their Python types, and numbers from Python's own."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function is torch.Tensor.tolist and isinstance(args[0], There):
            return args[0].here.tolist()  # torch refuses it of all tensors of other classes
        if function is torch.Tensor.__getitem__ and isinstance(args[1], list):
            args = args[0], torch.tensor(args[1])
        device = (kwargs or {}).get("device")
        if function in (torch.tensor, torch.as_tensor) and device is not None and torch.device(device) == DEVICE:
            return There(function(*args, **{**(kwargs or {}), "device": "cpu"}))
        found, drawn = function(*args, **(kwargs or {})), (kwargs or {}).get("generator")
        if drawn is not None and isinstance(drawn, GeneratorThere) != isinstance(found, There):
            raise RuntimeError(f"{function} was given a generator of the other device")
        return found


@contextmanager
def second_device() -> Iterator[torch.device]:
    """Give the device in the block."""
    swapped = torch.__future__.get_swap_module_params_on_conversion()
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        with pytest.MonkeyPatch.context() as patch, _Elsewhere(), _Asking():
            patch.setattr(torch, "Generator", _Generator)
            yield DEVICE
    finally:
        torch.__future__.set_swap_module_params_on_conversion(swapped)
