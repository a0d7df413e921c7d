"""Names of classes that people take for one."""

from __future__ import annotations

import unicodedata


def printed(name: str) -> str:
    """Return what a name looks like when it is printed."""
    return " ".join(unicodedata.normalize("NFKC", name).split())


def same_name(name: str) -> str:
    """Return what names that people take for the same have in common; single letters keep their case.

    >>> same_name("Hex  Nut") == same_name("hex nut ") == same_name("ＨＥＸ nut")
    True
    >>> same_name("a") == same_name("A")
    False
    """
    plain = printed(name)
    return plain if len(plain) == 1 else plain.casefold()
