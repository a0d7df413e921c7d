"""Names that attack whoever reads them: the terminal, Markdown, LaTeX, a spreadsheet, a page, a picture."""

from __future__ import annotations

import csv
import io
import unicodedata
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from continual import escaping, files
from continual.console import console
from continual.experiments import report, tables
from continual.experiments.comparison import boards
from continual.experiments.run_folder import collect
from tests.support.simulated_runs import made_up, run_folder

Equimos = Callable[..., Any]

ATTACKS = {
    "colour": "\x1b[31mrose\x1b[0m",
    "clear": "\x1b[2J\x1b[Hrose",
    "title": "\x1b]0;owned\x07rose",
    "link": "\x1b]8;;http://evil.example\x1b\\rose",
    "c1": "\x9b31mrose",
    "carriage": "rose\rerror: none",
    "line": "rose\nnote: all is well",
    "backspace": "rose\b\b\b\btulip",
    "bidi": "rose\u202egnp.exe",
    "isolate": "rose\u2066\u2069",
    "separator": "rose\u2028note",
    "next line": "rose\x85note",
    "tag": "rose\U000e0041",
}


def active(text: str) -> list[str]:
    """The characters that a terminal or an editor would obey."""
    return [c for c in text if unicodedata.category(c) in ("Cc", "Zl", "Zp", "Cs") or 0x202A <= ord(c) <= 0x202E]


@given(st.text())
def test_no_destination_lets_a_control_character_through(text: str) -> None:
    for write in (escaping.terminal, escaping.markdown, escaping.latex, escaping.latex_comment, escaping.plot):
        assert not active(write(text))
    assert not active(str(escaping.csv_cell(text)))
    assert escaping.terminal(escaping.terminal(text)) == escaping.terminal(text)


@given(st.text(alphabet="abc ABC äöü玫瑰éß%[]()-_.,:/0123456789"))
def test_plain_names_stay_in_a_terminal(text: str) -> None:
    assert escaping.terminal(text) == text


@given(st.lists(st.lists(st.text("=+-@'|\",\n\r\ta＝＋－＠ "), min_size=2, max_size=3), min_size=1))
def test_no_cell_begins_a_formula(lines: list[list[str]]) -> None:
    for row in csv.reader(io.StringIO(files.csv_text(lines))):
        for cell in row:
            assert not unicodedata.normalize("NFKC", cell.lstrip()).startswith(("=", "+", "-", "@", "\t", "\r"))


def test_numbers_of_a_table_stay_numbers() -> None:
    assert files.csv_text([[-1.5, None, "-1.5", "a"]]) == "-1.5,,'-1.5,a\n"
    assert files.csv_text([["=a", "b\nc"]], exact=True) == '=a,"b\nc"\n'


@given(st.text("ab|\\`<&[]()!\n*"))
def test_a_markdown_cell_is_one_cell_without_html_or_links(text: str) -> None:
    row = tables.markdown(tables.Table(["x", "y"], [[text, "end"]])).splitlines()
    assert len(row) == 3
    bare, place = "", 0
    while place < len(row[2]):  # what is left once every escaped character is taken away
        if row[2][place] == "\\":
            bare, place = bare + "x", place + 2
            continue
        bare += row[2][place]
        place += 1
    assert bare.count("|") == 3
    assert not set("`<&\\") & set(bare)
    assert "](" not in bare
    assert "][" not in bare
    assert "![" not in bare


@given(st.text("ab\\{}$&#^_~%[*\n\r"))
def test_latex_has_no_live_character(text: str) -> None:
    written = escaping.latex(text)
    assert "\n" not in written
    assert not written.startswith(("[", "*"))
    for known in (r"\textbackslash{}", r"\textasciitilde{}", r"\textasciicircum{}", "{[}", "{*}"):
        written = written.replace(known, "")
    assert not set("{}$&#^_~%\\") & set(written.replace(r"\&", "").replace(r"\%", "").replace(r"\$", "").replace(
        r"\#", "").replace(r"\_", "").replace(r"\{", "").replace(r"\}", ""))  # fmt: skip


@pytest.mark.parametrize("name", ATTACKS.values(), ids=ATTACKS)
def test_a_console_prints_one_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    console().print(f"{name}: learned")
    said = capsys.readouterr().out
    assert said.endswith(": learned\n")
    assert not active(said[:-1])


@pytest.mark.parametrize("name", ATTACKS.values(), ids=ATTACKS)
def test_commands_show_hostile_names_and_do_not_obey(
    equimos: Equimos, model: Path, flowers: Path, tmp_path: Path, name: str
) -> None:
    """A class of that name: in the table, the CSV, the history, the plan and an error."""
    image = flowers / "rose" / "0.png"
    words: list[tuple[Any, ...]] = [
        ("rename", "rose", name, "-m", model),
        ("info", "-m", model),
        ("history", "-m", model),
        ("predict", "-m", model, image),
        ("predict", "-m", model, image, "--csv", "-"),
        ("predict", "-m", model, image, "--json", "-"),
        ("forget", name + "x", "-m", model),
        ("predict", "-m", model, tmp_path / name),
        ("forget", name, "-m", model),
    ]
    for command in words:
        result = equimos(*command)
        for said in (result.stdout, result.stderr):
            assert not active(said.replace("\n", "")), command
            assert "\nnote: all is well" not in said
    # Whether such a class was forgotten, or such a name refused: it is shown.
    assert escaping.terminal(name) in (result.stdout + result.stderr).replace("\\\\", "\\")


@pytest.mark.slow
def test_a_report_of_hostile_labels_is_harmless(tmp_path: Path) -> None:
    """In a run's label and title; read back as CSV, and looked through as LaTeX, Markdown, HTML and SVG."""
    label, title = "=cmd|' /C calc'!A0\x1b[31m\u202e<script>alert(1)</script>$x$\n", "T\n\\input{/etc/passwd}\n% <b>"
    cells = [replace(made_up("mos", seed), label=label) for seed in (1, 2)]
    collected = [collect(run_folder(tmp_path / "run", cells, title=title))]
    report.write_report(boards(collected), collected, tmp_path / "out")
    for name in ("table.md", "table.tex", "table.csv", "experiences.csv", "report.html"):
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert not active(text.replace("\n", "")), name
        assert name == "report.html" or "\n\\input" not in text, name
    for name in ("table.md", "report.html"):
        text = (tmp_path / "out" / name).read_text(encoding="utf-8")
        assert "<script>alert" not in text.replace("\\<", ""), name
    for row in csv.reader(io.StringIO((tmp_path / "out" / "table.csv").read_text())):
        assert not any(cell.startswith(("=", "@", "+")) for cell in row)
