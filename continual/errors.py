"""Errors a user can act on: what was got, what is allowed, and what to do instead."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class EquimosError(ValueError):
    """Base of every error that bad input can cause; its text is one readable sentence."""


class InputError(EquimosError):
    """Images, labels or options that cannot be used as they are."""


class NeedsExtraError(EquimosError):
    """What was given can be used once a further package is installed, which the text names."""


class BackboneError(EquimosError):
    """A backbone that cannot be built: its name, weights or shapes are wrong."""


class ModelFileError(EquimosError):
    """A model file that is missing, damaged, or was made with other weights."""


class LearningError(EquimosError):
    """Training that cannot continue (a loss that is not finite); the learner is left as it was."""


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether memory was short; torch's errors by their names and words, so that torch need not be loaded.

    >>> is_out_of_memory(RuntimeError("CUDA out of memory")), is_out_of_memory(RuntimeError("shapes differ"))
    (True, False)
    """
    words = ("DefaultCPUAllocator", "can't allocate memory", "out of memory")
    named = isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__
    return named or any(word in str(error) for word in words)


def nearest(name: str, allowed: Iterable[str], count: int = 3) -> str:
    """Name the closest allowed spellings, for the end of an error message.

    >>> nearest("fintune", ["finetune", "mos"])
    "did you mean 'finetune'?"
    >>> nearest("zzz", ["finetune", "mos"])
    "allowed: 'finetune', 'mos'"
    """
    allowed = sorted(allowed)
    close = difflib.get_close_matches(name, allowed, n=count, cutoff=0.5)
    if close:
        return "did you mean " + " or ".join(repr(c) for c in close) + "?"
    return "allowed: " + ", ".join(repr(a) for a in allowed)
