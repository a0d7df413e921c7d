"""What a model returns, as a list of (action, tensor): one tensor, or tensors nested in dicts and tuples."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor

from equivariant.actions import Action
from equivariant.errors import InputError

#: How an output is transformed: an action, or a mapping or sequence of such, shaped like the output.
Representation: TypeAlias = "Action | Mapping[str, Representation] | Sequence[Representation]"


def leaves(representation: Representation, output: Any, where: str = "output") -> list[tuple[Action, Tensor]]:
    """Return every tensor of the output with its action; raises InputError where the two do not fit."""
    if isinstance(representation, Action):
        if not isinstance(output, Tensor):
            raise InputError(
                f"the model's {where} is a {type(output).__name__}, not a tensor: pass output= a dict or tuple of "
                f"actions shaped like it, e.g. output={{'logits': Trivial(), 'map': Maps()}}"
            )
        return [(representation, output)]
    if isinstance(representation, Mapping):
        if not isinstance(output, Mapping) or set(output) != set(representation):
            got = f"keys {sorted(output)}" if isinstance(output, Mapping) else type(output).__name__
            raise InputError(f"{where} was announced with keys {sorted(representation)}, but the model returns {got}")
        parts = [(key, action, output[key]) for key, action in representation.items()]
        return [pair for key, action, part in parts for pair in leaves(action, part, f"{where}[{key!r}]")]
    if not isinstance(output, Sequence) or len(output) != len(representation):
        got = f"{len(output)} parts" if isinstance(output, Sequence) else type(output).__name__
        raise InputError(f"{where} was announced with {len(representation)} parts, but the model returns {got}")
    pairs = enumerate(zip(representation, output, strict=True))
    return [pair for i, (action, part) in pairs for pair in leaves(action, part, f"{where}[{i}]")]


def actions(representation: Representation) -> list[Action]:
    """Return the actions of a representation, in the order of `leaves`; raises InputError for anything else."""
    if isinstance(representation, Action):
        return [representation]
    if isinstance(representation, str) or not isinstance(representation, Mapping | Sequence):
        raise InputError(
            f"output={representation!r} must be an action (Trivial(), Maps(), Tokens(), …), or a dict or tuple of such"
        )
    parts = representation.values() if isinstance(representation, Mapping) else representation
    return [action for part in parts for action in actions(part)]


def rebuild(representation: Representation, tensors: Iterator[Tensor]) -> Any:
    """Put tensors, in the order of `leaves`, back into a dict or tuple shaped like the representation."""
    if isinstance(representation, Action):
        return next(tensors)
    if isinstance(representation, Mapping):
        return {key: rebuild(part, tensors) for key, part in representation.items()}
    return tuple(rebuild(part, tensors) for part in representation)


def check_batch(x: Any) -> None:
    """Raise InputError unless `x` is a tensor that holds at least one item."""
    if not isinstance(x, Tensor):
        raise InputError(f"the input must be a tensor, not {type(x).__name__}")
    if len(x) == 0:
        raise InputError(f"the batch is empty (its shape is {tuple(x.shape)}): give at least one image")


def check_length(tensor: Tensor, count: int) -> None:
    """Raise InputError unless the tensor has one entry for each of `count` images."""
    if tensor.ndim == 0 or len(tensor) != count:
        raise InputError(
            f"the model was given {count} images, but returned a tensor of shape {tuple(tensor.shape)}: its first axis "
            f"must be the batch"
        )
