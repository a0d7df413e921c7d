"""Errors a user can act on: what was got, what is allowed, and what to do instead."""

from __future__ import annotations

from collections.abc import Sequence


class EquivariantError(ValueError):
    """Base of every error that bad input to this package can cause."""


class GroupError(EquivariantError):
    """Something that is not a group, is not known as one, or is another group than was expected."""


class InputError(EquivariantError):
    """A tensor, model or option that cannot be used as it is."""


def first_of(names: Sequence[str]) -> str:
    """Name the first of some names, and how many more there are.

    >>> first_of(["a"]), first_of(["a", "b"]), first_of("abc")
    ("'a'", "'a' and 1 other name", "'a' and 2 other names")
    """
    more = len(names) - 1
    return f"{names[0]!r}" + (f" and {more} other name{'s' * (more > 1)}" if more else "")
