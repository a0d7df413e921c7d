"""A file a wrapper, found by its name: here, at an entry point of the group `equimos.wrappers`, or registered."""

from __future__ import annotations

import pkgutil
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.metadata import entry_points

from torch import nn

from equivariant.errors import InputError
from equivariant.wrappers.base import OrbitWrapper

Wrapper = type[OrbitWrapper]
_registered: dict[str, Wrapper] = {}


@cache
def _found() -> dict[str, Wrapper]:
    modules = [import_module(f"{__name__}.{module.name}") for module in pkgutil.iter_modules(__path__)]
    kinds = [kind for module in modules for kind in vars(module).values() if isinstance(kind, type)]
    own = {kind.name: kind for kind in kinds if issubclass(kind, OrbitWrapper) and "name" in vars(kind)}
    return {**own, **{entry.name: entry.load() for entry in entry_points(group="equimos.wrappers")}}


def wrappers() -> dict[str, Wrapper]:
    """Return all wrappers by name, sorted."""
    return dict(sorted({**_found(), **_registered}.items()))


def wrapper_named(name: str) -> Wrapper:
    """Return the wrapper of that name; raises InputError with the nearest names for an unknown one."""
    known = wrappers()
    if name not in known:
        near = get_close_matches(name, known, cutoff=0.5) or known
        raise InputError(f"unknown wrapper {name!r}: choose {' or '.join(map(repr, near))}")
    return known[name]


def find_wrapper(model: nn.Module) -> OrbitWrapper | None:
    """Return the wrapper in a model, None if there is none; raises InputError if there are several."""
    found = [module for module in model.modules() if isinstance(module, OrbitWrapper)]
    if len(found) > 1:
        raise InputError(f"the model holds {len(found)} wrappers: take one of them at a time")
    return found[0] if found else None


def register(kind: Wrapper) -> Wrapper:
    """Let a wrapper be found by its `name` in this process, and return it: a decorator.

    Raises InputError if it has no name of its own, or that of another wrapper.
    """
    name = vars(kind).get("name")
    if not name or wrappers().get(name, kind) is not kind:
        raise InputError(f"{kind.__name__} needs a `name` of its own that none of {', '.join(wrappers())} has")
    _registered[name] = kind
    return kind
