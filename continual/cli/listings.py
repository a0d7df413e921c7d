"""The commands that list what there is: methods and their settings, and the things of every kind."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from types import UnionType
from typing import Annotated, Any, get_args, get_origin

import typer

from continual.cli.loading import loading_pytorch
from continual.cli.options import Json
from continual.console import check_outputs, console, pairs, show_rows, write_json
from continual.errors import InputError, nearest

app = typer.Typer()

#: whose folders hold registries
PACKAGES = ("continual", "equivariant")


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(metavar="METHOD", help="Show the settings of this one.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show every setting and preset.")] = False,
) -> None:
    """List the methods that can be learned with, or the settings of one: its own, and those it shares with others."""
    with loading_pytorch():
        from continual.methods import method
        from continual.methods import methods as known

    rows = []
    for label, kind in known().items() if name is None else ():
        answers = "yes" if kind.exemplar_free else "no", "any" if kind.any_backbone else "ViT"
        rows.append((label, kind.summary, kind.paper, *answers))
    show_rows(rows, "method", "what it does", "paper", "exemplar-free", "backbone")
    users = Counter(base for kind in known().values() for base in kind.settings_type.__mro__)
    for label, kind in {name: method(name)}.items() if name is not None else known().items() if verbose else ():
        settings = kind.settings_type
        own = {field for base in settings.__mro__ if users[base] == 1 for field in _declared(base)}
        _show_settings(f"settings of {label}", settings, own)
        for preset, values in settings.presets.items():
            console().print(f"--method {label}_{preset}, or --method {label} --preset {preset}: {pairs(values)}")
        if name is not None:
            _show_settings("settings that other methods have, too", settings, settings.model_fields.keys() - own)
    if name is None and verbose:
        for base, number in users.most_common():
            whose = [label for label, kind in known().items() if base in kind.settings_type.__mro__]
            if number > 1:
                whose = ["every method"] if number == len(known()) else whose
                _show_settings(f"settings of {', '.join(whose)}", base, _declared(base))


@app.command("list")
def list_(
    kind: Annotated[str | None, typer.Argument(metavar="KIND", help="Which kind; all of them without.")] = None,
    json: Json = None,
) -> None:
    """List what there is of a kind, say losses or metrics, and where it comes from."""
    check_outputs(json)
    with loading_pytorch():
        found = kinds()
    if kind is not None and kind not in found:
        raise InputError(f"unknown kind {kind!r}: {nearest(kind, found)}")
    rows = [
        {"kind": folder, "name": name, "summary": _first_line(value), "from": _origin(value, front)}
        for folder, (front, things) in found.items()
        if kind in (None, folder)
        for name, value in things().items()
    ]
    if write_json(json, rows):
        show_rows((row.values() for row in rows), "kind", "name", "what it is", "from")


def kinds() -> dict[str, tuple[str, Callable[[], Mapping[str, Any]]]]:
    """Return every kind of thing by the name of its folder: the folder's full name, and what lists its things.

    A folder has a kind if a `Registry` for it is in its front, or a function named as the folder is.
    """
    from continual.registry import Registry

    found: dict[str, tuple[str, Callable[[], Mapping[str, Any]]]] = {}
    for front in (importlib.import_module(name) for package in PACKAGES for name in _folders(package)):
        folder = front.__name__.rpartition(".")[2]
        for name, value in vars(front).items():
            if isinstance(value, Registry) and value.package == front.__name__:
                found[folder] = front.__name__, value.all
            elif name == folder and callable(value) and "." in front.__name__:
                found.setdefault(folder, (front.__name__, value))
    return dict(sorted(found.items()))


def _folders(package: str) -> list[str]:
    """Return the full names of a package and all folders in it."""
    modules = pkgutil.walk_packages(importlib.import_module(package).__path__, f"{package}.")
    return [package, *(module.name for module in modules if module.ispkg)]


def _origin(value: Any, front: str) -> str:
    """Say where a thing of the folder `front` comes from: built in, a package's entry point, or a user's file."""
    place = str(getattr(value, "__module__", type(value).__module__))
    if place.startswith(front):
        return "built in"
    from importlib.metadata import entry_points

    for entry in entry_points(group=f"equimos.{front.rpartition('.')[2]}"):
        if entry.module == place or entry.load() is value:
            return f"entry point{f' of {entry.dist.name}' if entry.dist else ''}: {entry.value}"
    return f"file {getattr(sys.modules.get(place), '__file__', place)}"


def _first_line(value: Any) -> str:
    """Return a thing's summary, or the first line of its docstring."""
    said = getattr(value, "summary", None)
    return said if isinstance(said, str) else (inspect.getdoc(value) or "").partition("\n")[0]


def _declared(base: type) -> set[str]:
    """Return the names of the settings that a class declares itself."""
    return vars(base).get("__annotations__", {}).keys() & getattr(base, "model_fields", {}).keys()


def _show_settings(title: str, settings: Any, names: set[str]) -> None:
    rows = [
        (name, field.get_default(call_default_factory=True), _kind(field.annotation), field.description or "")
        for name, field in getattr(settings, "model_fields", {}).items()
        if name in names
    ]
    show_rows(rows, "setting", "default", "type", "what it is", title=title)


def _kind(annotation: Any) -> str:
    """Write a setting's type as its alternatives.

    >>> from typing import Literal
    >>> _kind(Literal["mean"] | None), _kind(dict[str, int])
    ("'mean' | None", 'dict')
    """
    plain = get_origin(annotation) or annotation
    if isinstance(plain, type) and plain is not UnionType:
        return plain.__name__.removesuffix("Type")
    return " | ".join(map(_kind, get_args(annotation))) or repr(annotation)
