"""Errors a user can act on: what was got, what is allowed, and what to do instead."""

from __future__ import annotations


class EquivariantError(ValueError):
    """Base of every error that bad input to this package can cause."""


class GroupError(EquivariantError):
    """Something that is not a group, is not known as one, or is another group than was expected."""


class InputError(EquivariantError):
    """A tensor, model or option that cannot be used as it is."""
