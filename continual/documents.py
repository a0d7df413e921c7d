"""Strict TOML documents: read, changed from the command line, and refused with every problem at once."""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from continual import options
from continual.errors import InputError, nearest


class Strict(BaseModel):
    """A table of a document: every key is known, and nothing changes it."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def known_keys(cls) -> Iterable[str]:
        """Return the keys that may stand in the table, of which an unknown one's nearest is named."""
        return cls.model_fields


def is_path(value: str) -> bool:
    """Tell a path, which has a slash or the suffix of a data file, from a name.

    >>> is_path("./photos"), is_path("list.csv"), is_path("cifar100"), is_path("hub:owner/name")
    (True, True, False, False)
    """
    return value[:4] != "hub:" and ("/" in value or "\\" in value or value.lower().endswith((".csv", ".parquet")))


def is_code_file(value: str) -> bool:
    """Tell whether a value points to something in a Python file.

    >>> is_code_file("own_method.py:MyLearner"), is_code_file("package.module:MyLearner")
    (True, False)
    """
    return value.rpartition(":")[0].endswith(".py")


def not_finite(values: Any, place: str = "") -> list[str]:
    """Name the keys whose number is infinite or not a number, at any depth, also where any value is allowed.

    >>> not_finite({"a": {"b": [1.0, float("inf")]}})
    ['a.b.1 is inf: give a finite number']
    """
    inner = values.items() if isinstance(values, dict) else enumerate(values) if isinstance(values, list) else ()
    if isinstance(values, float) and not math.isfinite(values):
        return [f"{place} is {values}: give a finite number"]
    return [line for key, value in inner for line in not_finite(value, f"{place}.{key}" if place else str(key))]


def merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Return nested tables with some values changed.

    >>> merged({"a": {"b": 1, "c": 2}}, {"a": {"b": 3}})
    {'a': {'b': 3, 'c': 2}}
    """
    both = {k: merged(base[k], v) for k, v in changes.items() if isinstance(v, dict) and isinstance(base.get(k), dict)}
    return {**base, **changes, **both}


def read(
    path: Path,
    overrides: Iterable[str] = (),
    places: Iterable[str] = (),
    sources: Iterable[str] = (),
    part: str | None = None,
) -> dict[str, Any]:
    """Return a document's values; `overrides` are `dotted.key=value` with values written as in TOML.

    `places` are the keys, `table.key`, of files and folders: a relative one is looked up beside the document
    if it stands there, and in the working folder if an override says it. `sources` are keys that are a place
    only if `is_path` says so; a `*` in a key is every table. A value or key that is an `is_code_file` is looked up
    beside the document wherever it stands. With `part`, the table `sweep.PART` changes the others, and `sweep` itself
    is left out. Raises InputError if there is no such file, or if it or an override is not readable.
    """
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(f"no config at {path}") from None
    except IsADirectoryError:
        raise InputError(f"{path} is a folder: name a TOML file in it") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InputError(f"{path} is not readable TOML: {error}") from None
    if part is not None:
        values = merged(values, values.pop("sweep")[part])
    values = _code_beside(values, path.parent)
    for place in (*places, *sources):
        *tables, key = place.split(".")
        for table in _tables(values, tables):
            found = table.get(key)
            if isinstance(found, str) and (place not in sources or is_path(found)):
                table[key] = str(path.parent / found)
                if place in sources and not is_path(table[key]):  # the document lies in the working folder
                    table[key] = f"./{table[key]}"
    for override in overrides:
        _apply(values, override)
    return values


def refusal(path: Path, error: ValidationError, model: type[BaseModel], also: Iterable[str] = ()) -> InputError:
    """Return the error for a document that is no `model`: every problem, and the nearest name of an unknown key."""
    return InputError(f"{path}: " + "; ".join([*also, *(_explain(problem, model) for problem in error.errors())]))


def _code_beside(values: Any, folder: Path) -> Any:
    """Return values in which Python files of the user's are found from anywhere."""
    if isinstance(values, dict):
        return {_code_beside(key, folder): _code_beside(value, folder) for key, value in values.items()}
    if isinstance(values, list):
        return [_code_beside(value, folder) for value in values]
    return str((folder / values).resolve()) if isinstance(values, str) and is_code_file(values) else values


def _tables(values: Any, names: list[str]) -> list[dict[str, Any]]:
    """Return the tables below `names` that are there, of a list those of each entry."""
    if isinstance(values, list):
        return [table for value in values for table in _tables(value, names)]
    if not isinstance(values, dict) or not names:
        return [values] if isinstance(values, dict) else []
    inner = values.values() if names[0] == "*" else [values.get(names[0])]
    return [table for value in inner for table in _tables(value, names[1:])]


def _apply(values: dict[str, Any], override: str) -> None:
    """Set one dotted key, creating tables on the way."""
    key, equals, text = override.partition("=")
    if not equals:
        raise InputError(f"{override!r} is not of the form key=value, e.g. stream.per_class=20")
    *tables, last = _key_parts(key.strip())
    for part in tables:
        values = values.setdefault(part, {})
        if not isinstance(values, dict):
            raise InputError(f"{override!r}: {part!r} is a value, not a table")
    values[last] = options.value(text)


def _key_parts(key: str) -> list[str]:
    try:
        table = tomllib.loads(f"{key} = 0")
    except tomllib.TOMLDecodeError:
        raise InputError(f"{key!r} is not a key; write it as in TOML, e.g. methods.mos.epochs") from None
    parts = []
    while isinstance(table, dict):
        (part, table) = next(iter(table.items()))
        parts.append(part)
    return parts


def _explain(problem: Any, model: Any) -> str:
    place = ".".join(str(part) for part in problem["loc"])
    if problem["type"] != "extra_forbidden":
        said = problem["msg"].removeprefix("Value error, ")
        return f"{place}: {said}" if place else said
    for part in problem["loc"][:-1]:
        fields = getattr(model, "model_fields", {})
        # Below a table with names of the user's, such as `methods`, every name leads to the same model.
        model = _model_in(fields[part].annotation) if part in fields else model
    return f"unknown key {place!r}: {nearest(str(problem['loc'][-1]), model.known_keys())}"


def _model_in(annotation: Any) -> Any:
    """Return the model an annotation such as `Model | None`, `list[Model]` or `dict[str, Model]` speaks of."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for inner in get_args(annotation) if (found := _model_in(inner))), None)
