"""Fields that say what they hold: what belongs to a class and on which axis, and what never goes to a file.

A dataclass of tensors declares this once; leaving out a class (`without`), the tensors and JSON values of a file
(`pack`, `unpack`) and the bytes it takes follow from the declaration and the fields' types.

>>> @dataclass(frozen=True)
... class Means:
...     mean: Tensor = per_class(axis=-2)  # (..., C, D)
>>> without(Means(torch.tensor([[1.0], [2.0], [3.0]])), 1)
Means(mean=tensor([[1.],
        [3.]]))
>>> pack(Means(torch.zeros(2, 1)))
({'mean': tensor([[0.],
        [0.]])}, {})
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, fields, is_dataclass, replace  # noqa: F401 - dataclass is for the example
from functools import cache
from types import UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

T = TypeVar("T")


def per_class(axis: int = 0, *, default: Any = dataclasses.MISSING) -> Any:
    """Declare a field that holds something of every class: a tensor along `axis`, or a tuple with an item each."""
    return dataclasses.field(default=default, metadata={"axis": axis})


def transient(default: Any) -> Any:
    """Declare a field that no file holds."""
    return dataclasses.field(default=default, metadata={"transient": True})


def without(value: T, index: int) -> T:
    """Return a dataclass without what it holds of the class of that index.

    Dataclasses among its fields leave the class out as well; those that have a method `without` by that.
    """
    changes: dict[str, Any] = {}
    for field in fields(value):  # type: ignore[arg-type]
        own = getattr(value, field.name)
        if own is None:
            continue
        if "axis" in field.metadata:
            changes[field.name] = _without_item(own, index, field.metadata["axis"])
        elif is_dataclass(own):
            changes[field.name] = own.without(index) if hasattr(own, "without") else without(own, index)
    return replace(value, **changes)  # type: ignore[type-var]


def placed(value: T, places: Tensor, count: int) -> T:
    """Return a dataclass of tensors in which its classes are at `places` (C,) among `count`; zeros for the others."""
    changes = {}
    for field in fields(value):  # type: ignore[arg-type]
        own = getattr(value, field.name)
        if "axis" in field.metadata and own is not None:
            axis = field.metadata["axis"] % own.ndim
            whole = own.new_zeros(*own.shape[:axis], count, *own.shape[axis + 1 :])
            changes[field.name] = whole.index_copy(axis, places.to(own.device), own)
    return replace(value, **changes)  # type: ignore[type-var]


def _without_item(own: Any, index: int, axis: int) -> Any:
    if not isinstance(own, Tensor):
        return own[:index] + own[index + 1 :]
    return torch.cat([own.narrow(axis, 0, index), own.narrow(axis, index + 1, own.shape[axis] - index - 1)], axis)


def check(value: Any, classes: int | None, place: str = "") -> None:
    """Raise ValueError, with the field, unless a dataclass holds something of each of so many classes, all finite.

    What leaves a class out by a method `without` of its own says itself what it holds of each: None is any number.
    What has a method `check_shapes` is asked for it.

    >>> @dataclass(frozen=True)
    ... class Means:
    ...     mean: Tensor = per_class(axis=-2)
    >>> check(Means(torch.zeros(2, 1)), 3)
    Traceback (most recent call last):
    ValueError: mean holds 2 classes, of 3
    """
    for field in fields(value):
        own, name = getattr(value, field.name), f"{place}{field.name}"
        if classes is not None and own is not None and "axis" in field.metadata:
            there = _count(own, field.metadata["axis"])
            if there != classes:
                raise ValueError(f"{name} holds {there} classes, of {classes}")
        _check_parts(own, classes, name)
    if hasattr(value, "check_shapes"):
        try:
            value.check_shapes()
        except ValueError as error:
            raise ValueError(f"{place}{error}") from None


def expect_shapes(value: Any, **wanted: tuple[int, ...]) -> None:
    """Raise ValueError, with the field, unless the tensors of a dataclass have these shapes; None has any."""
    for name, shape in wanted.items():
        own = getattr(value, name)
        if own is not None and own.shape != shape:
            raise ValueError(f"{name} is of shape {tuple(own.shape)}, not {shape}")


def _check_parts(own: Any, classes: int | None, name: str) -> None:
    if isinstance(own, Tensor):
        if own.is_floating_point() and not torch.isfinite(own).all():
            raise ValueError(f"{name} holds numbers that are not finite")
    elif is_dataclass(own) and not isinstance(own, type):
        check(own, None if hasattr(own, "without") else classes, f"{name}.")
    elif isinstance(own, Mapping):
        for key, part in own.items():
            _check_parts(part, None, f"{name}.{key}")
    elif isinstance(own, tuple):
        for number, part in enumerate(own):
            _check_parts(part, None, f"{name}.{number}")


def _count(own: Any, axis: int) -> int:
    if not isinstance(own, Tensor):
        return len(own)
    return own.shape[axis] if -own.ndim <= axis < own.ndim else 0


# Files ---------------------------------------------------------------------------------------------------


def pack(value: Any) -> tuple[dict[str, Tensor], Any]:
    """Take a value apart: tensors by their place, parts of which are joined by "/", and the rest as JSON values.

    A value is a tensor, a scalar, None, or a dataclass, mapping or tuple of values; of it, JSON values tell what is
    there ({}, []) and what is None.
    """
    if isinstance(value, Tensor):
        return {"": value}, {}
    if is_dataclass(value) and not isinstance(value, type):
        parts = {f.name: getattr(value, f.name) for f in fields(value) if not f.metadata.get("transient")}
        tensors, values = _pack_parts({name: part for name, part in parts.items() if part is not None})
        return tensors, ({"kind": value.kind} if hasattr(value, "kind") else {}) | values
    if isinstance(value, Mapping):
        return _pack_parts(value)
    if isinstance(value, tuple):
        tensors, values = _pack_parts({str(number): part for number, part in enumerate(value)}, empty=True)
        return tensors, [*values.values()]
    return {}, value


def _pack_parts(parts: Mapping[str, Any], *, empty: bool = False) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors: dict[str, Tensor] = {}
    values: dict[str, Any] = {}
    for name, part in parts.items():
        own, value = pack(part)
        tensors |= {f"{name}/{place}".rstrip("/"): tensor for place, tensor in own.items()}
        # That a tensor is there needs no word.
        if empty or not isinstance(part, Tensor):
            values[name] = value
    return tensors, values


def unpack(kind: Any, tensors: Mapping[str, Tensor], values: Any) -> Any:
    """Rebuild a value of the type `kind` from what `pack` gave.

    Raises KeyError, TypeError or ValueError if a part is missing, unknown or no such value.
    """
    kind, optional = _without_none(kind)
    origin = get_origin(kind) or kind
    if origin is Tensor:
        if "" not in tensors and optional:
            return None
        return tensors[""]
    if values is None and optional:
        return None
    if origin is tuple:
        parts = _by_part(tensors)
        return tuple(unpack(get_args(kind)[0], parts.get(str(n), {}), value) for n, value in enumerate(values))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        return dict(tensors)
    if is_dataclass(origin):
        return _unpack_dataclass(origin, tensors, dict(values))
    if values is None:
        raise TypeError(f"no {kind.__name__}")
    return values


def _unpack_dataclass(kind: Any, tensors: Mapping[str, Tensor], values: dict[str, Any]) -> Any:
    if hasattr(kind, "kinds"):
        kind = kind.kinds()[values.pop("kind")]
    own: dict[str, Any] = {}
    parts = _by_part(tensors)
    # Of an unknown part that is empty nothing is lost.
    said = parts.keys() | {name for name, value in values.items() if value}
    if unknown := said - {field.name for field in fields(kind)}:
        raise KeyError(f"{kind.__name__} has no {', '.join(sorted(unknown))}")
    for field in fields(kind):
        if not field.metadata.get("transient"):
            found = unpack(_types(kind)[field.name], parts.get(field.name, {}), values.get(field.name))
            # What is left out has the default of a field that has one.
            if found is not None or field.name in values or field.default is dataclasses.MISSING:
                own[field.name] = found
    return kind(**own)


def _by_part(tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return the tensors by the first part of their places, each with the rest of its place."""
    parts: dict[str, dict[str, Tensor]] = {}
    for place, tensor in tensors.items():
        first, _, rest = place.partition("/")
        parts.setdefault(first, {})[rest] = tensor
    return parts


@cache
def _types(kind: Any) -> dict[str, Any]:
    return get_type_hints(kind)


def _without_none(kind: Any) -> tuple[Any, bool]:
    """Return the type that is not None of a union with it, and whether there is a None."""
    if get_origin(kind) not in (Union, UnionType):
        return kind, False
    rest = [part for part in get_args(kind) if part is not type(None)]
    return rest[0], len(rest) < len(get_args(kind))


def size(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Return the bytes of packed tensors by the first part of their names."""
    sizes: dict[str, int] = {}
    for name, tensor in tensors.items():
        part = name.split("/")[0]
        sizes[part] = sizes.get(part, 0) + tensor.numel() * tensor.element_size()
    return sizes
