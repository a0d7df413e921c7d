"""Kinds of things found by place and name: a file in a folder, an entry point, or a user's own file.

A registry is made in the front of its folder, e.g. in `continual/merging/__init__.py`:

    RULES: Registry[Rule] = Registry("merge rule", __name__)

and finds what `name_of` names in that folder's files: classes with a `name` of their own, and functions that a
decorator has given one. Making a registry loads nothing; its files are imported when it is first asked.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import pkgutil
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any, Generic, TypeVar

from continual.errors import InputError, nearest

T = TypeVar("T")
F = TypeVar("F", bound=Callable[..., Any])


def own_name(value: Any) -> str | None:
    """Return the `name` that a class defines itself, or that a function was given; None for all else."""
    found = getattr(value, "__dict__", {}).get("name") if callable(value) else None
    return found if isinstance(found, str) and found else None


def named(name: str) -> Callable[[F], F]:
    """Give a function the name that a registry finds it by: a decorator."""

    def give(function: F) -> F:
        function.name = name  # type: ignore[attr-defined]
        return function

    return give


class Registry(Generic[T]):
    """Things of one kind by name.

    Args:
        noun: what one of them is, for errors: "merge rule".
        package: the folder whose files hold them; its last part names the group of entry points, `equimos.merging`.
        name_of: returns the name of a thing of this kind, and None for anything else that lies in the files.
    """

    def __init__(self, noun: str, package: str, name_of: Callable[[Any], str | None] = own_name) -> None:
        self.noun, self.package, self.name_of = noun, package, name_of
        self.group = f"equimos.{package.rpartition('.')[2]}"
        self._found: dict[str, T] | None = None
        self._added: dict[str, T] = {}

    def all(self) -> dict[str, T]:
        """Return all of them by name, sorted: the folder's own, those of entry points, and those that were added."""
        if self._found is None:
            front = importlib.import_module(self.package)
            files = pkgutil.iter_modules(front.__path__)
            modules = [importlib.import_module(f"{self.package}.{file.name}") for file in files]
            values = [value for module in modules for value in vars(module).values()]
            found = {name: value for value in values if (name := self.name_of(value)) is not None}
            self._found = {**found, **{entry.name: entry.load() for entry in entry_points(group=self.group)}}
        return dict(sorted({**self._found, **self._added}.items()))

    def get(self, name: str) -> T:
        """Return the one of that name; raises InputError with the nearest names for an unknown one."""
        known = self.all()
        if name not in known:
            raise InputError(f"unknown {self.noun} {name!r}: {nearest(name, known)}")
        return known[name]

    def add(self, value: T) -> T:
        """Add one for this process, and return it: usable as a decorator.

        Raises InputError for a thing that has no name, and for a name that another one has.
        """
        name = self.name_of(value)
        if name is None:
            raise InputError(
                f"{value!r} is no {self.noun}: it needs a name of its own, see the files in {self.package}"
            )
        other, own = self.all().get(name), _place(value)
        if other is not None and _place(other) != own:
            raise InputError(f"there is a {self.noun} {name!r} already, {_place(other)}: give {own} another name")
        self._added[name] = value
        return value

    def resolve(self, text: str, beside: Path | None = None) -> str:
        """Return the name that a user means by `text`, adding what it points to: see `points_to_code`.

        The code it points to is imported, so only what a user wrote may come here, never what a model file says. A
        relative file is looked up in the folder `beside`. Raises InputError if there is no such thing.
        """
        if not points_to_code(text):
            return text
        value = load_object(text, beside)
        self.add(value)
        return str(self.name_of(value))


def points_to_code(text: str) -> bool:
    """Tell whether a text points to something in a file or module, instead of naming it.

    >>> points_to_code("own_method.py:MyLearner"), points_to_code("package.module:MyLearner"), points_to_code("mos")
    (True, True, False)
    """
    return ":" in text


#: what is checked while no code is to be run that it names, see `without_code`
_CHECKED: ContextVar[str | None] = ContextVar("checked", default=None)


@contextmanager
def without_code(what: str | None) -> Iterator[None]:
    """Let `load_object` refuse files of code, and modules that lie in the working folder, while `what` is checked.

    Installed modules are imported all the same. None refuses nothing.
    """
    token = _CHECKED.set(what)
    try:
        yield
    finally:
        _CHECKED.reset(token)


def _refuse_code(text: str, place: str) -> None:
    """Raise InputError if code is named that must not be run now."""
    what = _CHECKED.get()
    if what is None:
        return
    top = place.partition(".")[0]
    spec = None if place.endswith(".py") else importlib.util.find_spec(top) if top.isidentifier() else None
    places = [spec.origin, *(spec.submodule_search_locations or ())] if spec else []
    here = Path.cwd().resolve()
    if place.endswith(".py") or any(p and Path(p).resolve().parent == here for p in places):
        raise InputError(
            f"{what} names code of its own, {text!r}, which is not run to check it: read that code, then add "
            "--allow-code"
        )


def load_object(text: str, beside: Path | None = None) -> Any:
    """Import what `file.py:Name` or `package.module:Name` points to; raises InputError if it cannot or may not be."""
    place, _, name = text.rpartition(":")
    _refuse_code(text, place)
    try:
        module = _file_module((beside or Path()) / place) if place.endswith(".py") else importlib.import_module(place)
    except InputError:
        raise
    except Exception as error:  # whatever a user's code raises
        raise InputError(f"{text!r} cannot be imported: {type(error).__name__}: {error}") from error
    if not hasattr(module, name):
        raise InputError(f"{place} has no {name!r}: {nearest(name, [n for n in vars(module) if n[0] != '_'])}")
    return getattr(module, name)


def _file_module(path: Path) -> Any:
    """Import a Python file, once however often it is named."""
    path = path.resolve()
    if not path.is_file():
        raise InputError(f"no Python file at {path}")
    name = f"{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise InputError(f"{path} cannot be imported: {type(error).__name__}: {error}") from error
    return module


def _place(value: Any) -> str:
    return f"{getattr(value, '__module__', '?')}.{getattr(value, '__qualname__', value)}"
