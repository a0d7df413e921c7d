"""What a model takes and returns: tensors, alone or nested in dicts, lists, tuples, named tuples and dataclasses."""

from __future__ import annotations

import copy
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from equivariant.actions import Action, Maps, Trivial
from equivariant.errors import InputError

#: How an output is transformed: an action, or a mapping or sequence of such, shaped like the output.
Representation: TypeAlias = "Action | Mapping[str, Representation] | Sequence[Representation]"

#: the largest stride that `by_shape` looks for
_STRIDES = 64


def leaves(
    representation: Representation | None, output: Any, like: Tensor | None = None, where: str = "output"
) -> list[tuple[Action, Tensor]]:
    """Return every tensor of the output with its action, in the order in which the output holds them.

    None for a representation is a guess by shape, beside the input `like` (see `by_shape`); maps that were guessed are
    said in a warning. What is no tensor (None, a number) has no action. Raises InputError where the two do not fit.
    """
    if representation is None:
        guessed = [(place, by_shape(tensor, like, place), tensor) for place, tensor in tensors(output, where)]
        if not guessed:
            raise InputError(f"the model's {where} is a {type(output).__name__}, which holds no tensor")
        if any(isinstance(action, Maps) for _, action, _ in guessed) and not torch.compiler.is_compiling():
            said = ", ".join(f"{place} {tuple(tensor.shape)}: {action}" for place, action, tensor in guessed)
            warnings.warn(f"output= was not given, so shapes decide how outputs move: {said}", stacklevel=2)
        return [(action, tensor) for _, action, tensor in guessed]
    if isinstance(representation, Action):
        if not isinstance(output, Tensor):
            raise InputError(
                f"the model's {where} is a {type(output).__name__}, not a tensor: leave output= out, so that shapes "
                f"decide, or pass actions shaped like it, e.g. output={{'logits': Trivial(), 'map': Maps()}}"
            )
        return [(representation, output)]
    held = _held(output)
    if isinstance(representation, Mapping):
        filled = None if held is None else {key: part for key, part in held.items() if tensors(part, where)}
        if held is None or not set(filled or ()) <= set(representation) <= set(held):
            got = type(output).__name__ if held is None else f"keys {sorted(map(str, held))}"
            raise InputError(f"{where} was announced with keys {sorted(representation)}, but the model returns {got}")
        named = dict(representation)
    else:
        if held is None or len(held) != len(representation):
            got = type(output).__name__ if held is None else f"{len(held)} parts"
            raise InputError(f"{where} was announced with {len(representation)} parts, but the model returns {got}")
        named = dict(zip(held, representation, strict=True))
    parts = [(key, part) for key, part in held.items() if key in named and tensors(part, where)]
    return [pair for key, part in parts for pair in leaves(named[key], part, like, f"{where}[{key!r}]")]


def by_shape(tensor: Tensor, like: Tensor | None, where: str = "output") -> Action:
    """Guess how an output tensor moves with the input `like` (B, …, H, W), where nobody said it.

    (B,), (B, K) and (B, K, 1, 1) are invariant; (B, …, h, w) is a map if h and w are those of the input, or both are
    the input's divided or multiplied by one whole number, rounded up or down. Raises InputError for anything else,
    tokens among it: they may be places of the image or not.
    """
    sides = tuple(tensor.shape[-2:])
    if tensor.ndim <= 2 or all(side == 1 for side in tensor.shape[2:]):
        return Trivial()
    if like is not None and like.ndim > 3 and (tensor.ndim > 3 or sides == tuple(like.shape[-2:])):
        height, width = like.shape[-2:]
        for s in range(1, _STRIDES + 1):
            if sides in ((-(-height // s), -(-width // s)), (height // s, width // s), (height * s, width * s)):
                return Maps()
    raise InputError(
        f"cannot tell from its shape {tuple(tensor.shape)} how the model's {where} moves with the image: say output="
        f"Trivial() if it does not move, Maps() for (B, …, H, W), Tokens(prefix=…) for patch tokens; several outputs "
        f"take a dict or tuple of such"
    )


def actions(representation: Representation | None) -> list[Action]:
    """Return the actions of a representation, none if shapes decide; raises InputError for anything else."""
    if representation is None:
        return []
    if isinstance(representation, Action):
        return [representation]
    if isinstance(representation, str) or not isinstance(representation, Mapping | Sequence):
        raise InputError(
            f"output={representation!r} must be an action (Trivial(), Maps(), Tokens(), …), or a dict or tuple of such"
        )
    parts = representation.values() if isinstance(representation, Mapping) else representation
    return [action for part in parts for action in actions(part)]


# Containers ----------------------------------------------------------------------------------------------


class _Hole:
    """The place of a tensor in an output whose tensors were taken out."""


def skeleton(output: Any) -> Any:
    """Return the output's containers, with nothing in the places of tensors; `rebuild` fills them."""
    return mapped(output, lambda tensor: _Hole())


def rebuild(emptied: Any, found: Iterator[Tensor]) -> Any:
    """Put tensors, in the order of `leaves`, into the containers of `skeleton`."""
    return mapped(emptied, lambda hole: next(found), _Hole)


def mapped(output: Any, function: Callable[[Any], Any], kind: type = Tensor) -> Any:
    """Return an output of the same containers with every tensor replaced by a function of it."""
    if isinstance(output, kind):
        return function(output)
    held = _held(output)
    if held is None:
        return output
    return _filled(output, {key: mapped(part, function, kind) for key, part in held.items()})


def tensors(output: Any, where: str = "output") -> list[tuple[str, Tensor]]:
    """Return all tensors of an output, each with its place."""
    if isinstance(output, Tensor):
        return [(where, output)]
    held = _held(output) or {}
    return [pair for key, part in held.items() for pair in tensors(part, f"{where}[{key!r}]")]


def joined(parts: list[Any]) -> Any:
    """Return the outputs of several passes as one, joined along their batch axis."""
    same = zip(*[[tensor for _, tensor in tensors(part)] for part in parts], strict=True)
    return rebuild(skeleton(parts[0]), iter([torch.cat(list(pieces)) for pieces in same]))


def first_scores(output: Any) -> Tensor:
    """Return an output's first tensor of numbers (n, K, …): the scores, or features, of models with several outputs."""
    for _, tensor in tensors(output):
        if tensor.ndim >= 2 and tensor.is_floating_point():
            return tensor
    raise InputError(f"the model's output, a {type(output).__name__}, holds no scores or features (n, K, …)")


def _held(output: Any) -> dict[Any, Any] | None:
    """Return what a container holds, by key, place or field; None for what is no container."""
    if isinstance(output, Mapping):  # also those of transformers, which are dataclasses and leave out fields of None
        return dict(output.items())
    if is_dataclass(output) and not isinstance(output, type):
        return {one.name: getattr(output, one.name) for one in fields(output) if one.init}
    if isinstance(output, tuple) and hasattr(output, "_fields"):
        return dict(zip(output._fields, output, strict=True))
    return dict(enumerate(output)) if isinstance(output, tuple | list) else None


def _filled(output: Any, held: dict[Any, Any]) -> Any:
    """Return a container like `output` that holds these instead."""
    kind: Any = type(output)
    if kind is dict:
        return held
    if is_dataclass(output):
        return kind(**held)
    if isinstance(output, OrderedDict):
        return kind(held)
    if isinstance(output, Mapping):
        made: Any = copy.copy(output)
        for key, part in held.items():
            made[key] = part
        return made
    return kind(*held.values()) if hasattr(output, "_fields") else kind(held.values())


# Batches -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Extra:
    """What a model takes besides its batch (B, …): tensors (B, …), nested or not, follow their images.

    Numbers, tensors without an axis and whatever is no tensor are passed on as they are.
    """

    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    def check(self, batch: int) -> None:
        """Raise InputError if a tensor has not one entry for each image."""
        for place, tensor in tensors((self.args, dict(self.kwargs)), "arguments"):
            if tensor.ndim and tensor.shape[0] != batch:
                raise InputError(
                    f"{place} has shape {tuple(tensor.shape)}, but the batch holds {batch} images: a tensor passed on "
                    f"to the model has one entry for each image; let the model hold what all images share"
                )

    def repeated(self, views: int) -> Extra:
        """Return what goes with so many views of the batch, laid one after the other."""
        return self._mapped(lambda tensor: tensor.repeat(views, *[1] * (tensor.ndim - 1)))

    def of(self, images: Tensor) -> Extra:
        """Return what goes with the images of these numbers (n,)."""
        return self._mapped(lambda tensor: tensor[images])

    def _mapped(self, function: Callable[[Tensor], Tensor]) -> Extra:
        def each(tensor: Tensor) -> Tensor:
            return function(tensor) if tensor.ndim else tensor

        return Extra(mapped(self.args, each), mapped(dict(self.kwargs), each))


#: no further arguments
NOTHING = Extra()


def check_batch(x: Any) -> None:
    """Raise InputError unless `x` is a tensor that holds at least one item."""
    if not isinstance(x, Tensor):
        raise InputError(f"the input must be a tensor, not {type(x).__name__}")
    if x.ndim == 0 or x.shape[0] == 0:
        raise InputError(f"the batch is empty (its shape is {tuple(x.shape)}): give at least one image")


def check_length(tensor: Tensor, count: int) -> None:
    """Raise InputError unless the tensor has one entry for each of `count` images."""
    if tensor.ndim == 0 or tensor.shape[0] != count:
        raise InputError(
            f"the model was given {count} images, but returned a tensor of shape {tuple(tensor.shape)}: its first axis "
            f"must be the batch"
        )


def seen(mask: Tensor) -> bool:
    """Whether any value is True; False where `torch.func.vmap` lets nobody look."""
    try:
        return bool(mask.any())
    except RuntimeError as error:
        if "vmap" not in str(error):
            raise
        return False


def can_look(x: Tensor) -> bool:
    """Whether steps may depend on values: not in a graph that is exported, nor under `torch.func.vmap`."""
    return not torch.compiler.is_exporting() and seen(torch.ones_like(x, dtype=torch.bool))
