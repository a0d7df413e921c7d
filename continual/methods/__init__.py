"""One file a method. A file here, an entry point in the group `equimos.methods`, or a class in a user's own file.

The last is named by where it is: `own_file.py:MyLearner`, or `package.module:MyLearner`.
"""

import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from continual.backbones.loading import Backbone
from continual.errors import InputError
from continual.learning import model_file
from continual.learning.learner import IncrementalLearner
from continual.registry import Registry, points_to_code

#: what learns unless a method is named: the most accurate on every stream it was measured on (docs/strata.md)
RECOMMENDED = "strata"


def _name_of(value: Any) -> str | None:
    """Return the `method` that a learner's class itself defines."""
    name = vars(value).get("method") if is_learner(value) else None
    return name if isinstance(name, str) else None


METHODS: Registry[type[IncrementalLearner[Any]]] = Registry("method", __name__, _name_of)


def is_learner(value: Any) -> bool:
    """Tell whether something is a class of learners."""
    return isinstance(value, type) and issubclass(value, IncrementalLearner)


def methods() -> dict[str, type[IncrementalLearner[Any]]]:
    """Return every registered method's learner by its name."""
    return METHODS.all()


def method(name: str) -> type[IncrementalLearner[Any]]:
    """Return one method's learner; raises InputError with the nearest names for an unknown one.

    Nothing is imported for a name, whatever it looks like: it may come from a stranger's model file.
    """
    try:
        return METHODS.get(name)
    except InputError as error:
        raise InputError(
            f"{error} (a method of your own must be loaded first: --method own_file.py:MyLearner, or "
            f"continual.methods.METHODS.resolve('own_file.py:MyLearner'))"
        ) from None


def with_preset(name: str, preset: str | None = None) -> tuple[str, str | None]:
    """Return a method's name and its preset; METHOD_PRESET is a name for both.

    What a user's `own_file.py:MyLearner` points to is loaded, and is from then on known by its name. Raises InputError
    if it cannot be, and for two presets. Whether method and preset exist is for others to say.

    >>> with_preset("mos_reference"), with_preset("simple_cil"), with_preset("mos", "paper")
    (('mos', 'reference'), ('simple_cil', None), ('mos', 'paper'))
    """
    if points_to_code(name):
        return METHODS.resolve(name), preset
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


class _Front(ModuleType):
    def __call__(self) -> dict[str, type[IncrementalLearner[Any]]]:
        """Return what `methods` does, so that `continual.methods()` is a call like any other."""
        return methods()


sys.modules[__name__].__class__ = _Front
