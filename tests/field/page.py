"""Write docs/input.md from the cases: `python -m tests.field.page`."""

from __future__ import annotations

from pathlib import Path

from tests.field.case import Case, all_cases

PAGE = Path(__file__).resolve().parents[2] / "docs" / "input.md"

HEAD = """# What you may put in

Every row is one or several tests in `tests/field`, from which this page is written (`python -m tests.field.page`).
"""


def page(cases: list[Case]) -> str:
    """The page: a table per section, sections in the order in which the cases first name them."""
    parts = [HEAD]
    for section in dict.fromkeys(case.section for case in cases):
        own = [
            (case.given if case.row is None else case.row, case.happens) for case in cases if case.section == section
        ]
        rows = [f"| {_cell(given)} | {_cell(happens)} |" for given, happens in dict.fromkeys(own) if given]
        parts.append("\n".join([f"## {section}\n", "| You have | What happens |", "|---|---|", *rows]) + "\n")
    return "\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


if __name__ == "__main__":
    PAGE.write_text(page(all_cases()), encoding="utf-8")
