"""One file a method. A file here, or an entry point in the group `equimos.methods`, is found by name."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from continual import artefact
from continual.backbones import Backbone
from continual.errors import InputError, nearest
from continual.learner import IncrementalLearner


@cache
def methods() -> dict[str, type[IncrementalLearner[Any]]]:
    """Return every registered method's learner by its name."""
    found: dict[str, type[IncrementalLearner[Any]]] = {}
    for module in pkgutil.iter_modules(__path__):
        for value in vars(importlib.import_module(f"{__name__}.{module.name}")).values():
            if isinstance(value, type) and issubclass(value, IncrementalLearner) and "method" in vars(value):
                found[value.method] = value
    for entry in entry_points(group="equimos.methods"):
        found[entry.name] = entry.load()
    return dict(sorted(found.items()))


def method(name: str) -> type[IncrementalLearner[Any]]:
    """Return one method's learner; raises InputError with the nearest names for an unknown one."""
    if name not in methods():
        raise InputError(f"unknown method {name!r}: {nearest(name, methods())}")
    return methods()[name]


def load(path: str | Path, backbone: Backbone | None = None, **options: Any) -> IncrementalLearner[Any]:
    """Read a learner of any method back; see `IncrementalLearner.load`."""
    _, header = artefact.read(path)
    return method(header["method"]).load(path, backbone, **options)
