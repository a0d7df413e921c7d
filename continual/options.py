"""Command-line options as values: `key=value` pairs and devices. Torch is loaded for a device alone."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from continual.errors import InputError

if TYPE_CHECKING:
    import torch


def assignments(option: str, pairs: Iterable[str]) -> dict[str, Any]:
    """Read `key=value` pairs with values written as in TOML; what is not TOML is text.

    Raises InputError that names every pair that is malformed or given twice.

    >>> assignments("--set", ["epochs=5", "merge=per_forward", "ensemble=false"])
    {'epochs': 5, 'merge': 'per_forward', 'ensemble': False}
    """
    values: dict[str, Any] = {}
    problems = []
    for pair in pairs:
        key, equals, text = (part.strip() for part in pair.partition("="))
        if not (key and equals and text):
            problems.append(f"{option} {pair!r} is not of the form key=value, e.g. {option} epochs=5")
        elif key in values:
            problems.append(f"{option} {key} is given twice")
        else:
            values[key] = value(text)
    if problems:
        raise InputError("; ".join(problems))
    return values


def for_each(option: str, values: Mapping[str, Any], count: int) -> list[dict[str, Any]]:
    """Return the values of each of `count` things: those with its number before the key, and those with none.

    Raises InputError for a number that no thing has.

    >>> for_each("--model-arg", {"mirror": False, "img_size": 98, "2.img_size": 128}, 2)
    [{'mirror': False, 'img_size': 98}, {'mirror': False, 'img_size': 128}]
    """
    found: list[dict[str, Any]] = [{} for _ in range(count)]
    for key, given in sorted(values.items(), key=lambda item: item[0].partition(".")[0].isdecimal()):
        number, dot, name = key.partition(".")
        if not (dot and number.isdecimal()):
            for own in found:
                own[key] = given
        elif 1 <= int(number) <= count:
            found[int(number) - 1][name] = given
        else:
            raise InputError(f"{option} {key}: there is no backbone {number}, they are numbered from 1 to {count}")
    return found


def value(text: str) -> Any:
    """Return a value written as in TOML; what is not TOML is text."""
    try:
        return tomllib.loads(f"x = {text}")["x"]
    except tomllib.TOMLDecodeError:
        return text.strip()


def device(name: str) -> torch.device:
    """Return a device by name; `auto` is the first of CUDA, MPS and CPU that is there.

    Raises InputError for a device that is unknown or not there.
    """
    import torch

    there = ["cpu"]
    if torch.backends.mps.is_available():
        there.insert(0, "mps")
    if torch.cuda.is_available():
        there[:0] = ["cuda", *[f"cuda:{i}" for i in range(torch.cuda.device_count())]]
    if name == "auto":
        return torch.device(there[0])
    if name not in there:
        raise InputError(f"no device {name!r} here: give one of {', '.join([*there, 'auto'])}")
    return torch.device(name)
