"""A case from the field: what someone had, what happens with it, and where such a report came from."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from tests.field import cases


@dataclass(frozen=True)
class Case:
    """One row of docs/input.md and one test.

    Attributes:
        section: The heading of the row, for instance "Containers", "Numbers and ranges", "Files", "Folders".
        given: What the user has.
        happens: What the product does with it, in one or two sentences.
        reported: Where such a report came from, one line.
        check: Asserts that it happens; it gets an empty folder.
        row: What the page has in place of `given`; cases of one row and outcome are one row. "" for a case that no
            user looks up: it is a test alone.
    """

    section: str
    given: str
    happens: str
    reported: str
    check: Callable[[Path], None]
    row: str | None = None

    def __str__(self) -> str:
        return f"{self.section}: {self.given}"


def all_cases() -> list[Case]:
    """The `CASES` of every module in tests/field/cases, in the order of the modules' names."""
    names = sorted(module.name for module in pkgutil.iter_modules(cases.__path__))
    return [case for name in names for case in importlib.import_module(f"{cases.__name__}.{name}").CASES]
