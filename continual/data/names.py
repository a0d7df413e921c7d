"""Names of classes that people take for one."""

from __future__ import annotations

import unicodedata


def same_name(name: str) -> str:
    """Return what names that people take for the same have in common; single letters keep their case.

    >>> same_name("Hex  Nut") == same_name("hex nut ") == same_name("ＨＥＸ nut")
    True
    >>> same_name("a") == same_name("A")
    False
    """
    plain = " ".join(unicodedata.normalize("NFKC", name).split())
    return plain if len(plain) == 1 else plain.casefold()
