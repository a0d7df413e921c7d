"""Write docs/input.md from the cases: `python -m tests.field.page`."""

from __future__ import annotations

from pathlib import Path

from tests.field.case import Case, all_cases

PAGE = Path(__file__).resolve().parents[2] / "docs" / "input.md"

HEAD = """# What you may put in

Every row is a test in `tests/field`; this page is written from them with `python -m tests.field.page`.
"""


def page(cases: list[Case]) -> str:
    """The page: a table per section, sections in the order in which the cases first name them."""
    parts = [HEAD]
    for section in dict.fromkeys(case.section for case in cases):
        rows = [f"| {_cell(case.given)} | {_cell(case.happens)} |" for case in cases if case.section == section]
        parts.append("\n".join([f"## {section}\n", "| You have | What happens |", "|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    PAGE.write_text(page(all_cases()), encoding="utf-8")
