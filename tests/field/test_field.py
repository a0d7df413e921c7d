"""What people really have: every case of the field, and the page that is written from them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.field.case import Case, all_cases
from tests.field.page import PAGE, page


@pytest.mark.parametrize("case", all_cases(), ids=str)
def test_what_the_page_says_happens(case: Case, tmp_path: Path) -> None:
    case.check(tmp_path)


def test_the_page_is_written_from_the_cases() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(all_cases()), "run `python -m tests.field.page`"


def test_cases_of_one_row_are_written_once_and_some_nowhere() -> None:
    cases = [
        Case("Files", given, happens, "nobody", lambda folder: None, row)
        for given, happens, row in (("a", "x", "a or b"), ("b", "x", "a or b"), ("c", "y", "a or b"), ("d", "y", ""))
    ]
    assert [line for line in page(cases).splitlines() if line.startswith("| a") or "d" in line[:3]] == [
        "| a or b | x |",
        "| a or b | y |",
    ]
