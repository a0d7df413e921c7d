"""One file a method. A file here, or an entry point in the group `equimos.methods`, is found by name."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from continual.backbones.loading import Backbone
from continual.errors import InputError, nearest
from continual.learning import model_file
from continual.learning.learner import IncrementalLearner

#: what learns unless a method is named: the most accurate on every stream it was measured on (docs/strata.md)
RECOMMENDED = "strata"


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


def with_preset(name: str, preset: str | None = None) -> tuple[str, str | None]:
    """Return a method's name and its preset; METHOD_PRESET is a name for both.

    Raises InputError for two presets. Whether method and preset exist is for others to say.

    >>> with_preset("mos_reference"), with_preset("simple_cil"), with_preset("mos", "paper")
    (('mos', 'reference'), ('simple_cil', None), ('mos', 'paper'))
    """
    kind, _, own = name.rpartition("_")
    if name in methods() or kind not in methods() or own not in methods()[kind].settings_type.presets:
        return name, preset
    if preset not in (None, own):
        raise InputError(f"method {name!r} is {kind!r} with the preset {own!r}, but {preset!r} is asked for: name one")
    return kind, own


def load(path: str | Path, backbone: Backbone | None = None, **options: Any) -> IncrementalLearner[Any]:
    """Read a learner of any method back; see `IncrementalLearner.load`."""
    _, header = model_file.read(path)
    return method(header["method"]).load(path, backbone, **options)
