"""Prose keeps to the field's terms, by the table of docs/glossary.md, and pages for users to sentences of 45 words."""

from __future__ import annotations

import io
import re
import subprocess
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

GLOSSARY = ROOT / "docs" / "glossary.md"
SECTION = "## Words these pages avoid"
#: what a user reads; figures that were measured and reports that were written stay as they are
FOLDERS = ("benchmarks", "continual", "docs/tutorials", "equivariant", "examples")
READ = ("*.md", "*.toml", *(f"{folder}/*.py" for folder in FOLDERS), "continual/*.html")
#: a seed's name, of which every random number follows; names of figures in benchmarks/results
KEPT = re.compile(
    r"^turned for training$|\b(stack|experience) told$|^told (lost|right)$|right stack( at first)?$|on turned images$"
)
#: words of a sentence that can be read at once
LONGEST = 45
WRITTEN_ONCE = ("benchmarks/results/", "docs/reports/", "tests/")


def avoided() -> dict[str, str]:
    """Return word -> the field's term, from the table."""
    table = GLOSSARY.read_text(encoding="utf-8").split(SECTION)[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", table, flags=re.MULTILINE)[2:]
    return {word.strip(): term.strip() for words, term in rows for word in words.split(",")}


def files() -> list[Path]:
    """Return every file of the repository that is read by users."""
    done = subprocess.run(["git", "ls-files", *READ], cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in done.stdout.split("\n") if name and not name.startswith(WRITTEN_ONCE)]


def prose(path: Path) -> Iterator[tuple[int, str]]:
    """Yield numbered lines of what is prose in a file: of Python its comments and texts, not its names and keys."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        yield from _of_python(text)
        return
    if path == GLOSSARY:
        text = text.split(SECTION)[0]
    if path.suffix == ".md":
        text = re.sub(r"```.*?```", lambda block: "\n" * block[0].count("\n"), text, flags=re.DOTALL)
    for number, line in enumerate(text.split("\n"), start=1):
        yield number, re.sub(r"`[^`]*`|\]\([^)]*\)", " ", line)


def _of_python(text: str) -> Iterator[tuple[int, str]]:
    kinds = {tokenize.COMMENT, tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1)}
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type in kinds and " " in token.string and not KEPT.search(token.string.strip("\"'")):
            plain = re.sub(r"``?[^`]*``?|\{[^{}]*\}", " ", token.string)
            for offset, line in enumerate(plain.split("\n")):
                yield token.start[0] + offset, line


def found_in(path: Path, words: dict[str, str]) -> list[str]:
    """Return a line for each avoided word in a file."""
    pattern = re.compile(rf"\b({'|'.join(map(re.escape, words))})\b", flags=re.IGNORECASE)
    name = path.relative_to(ROOT) if path.is_relative_to(ROOT) else path
    return [
        f"{name}:{number}: {word!r}, say: {words[word.lower()]}"
        for number, line in prose(path)
        for word in pattern.findall(line)
    ]


def how_to() -> list[Path]:
    """Return the README, and the pages of the site's tutorials and how-to section."""
    nav = (ROOT / "mkdocs.yml").read_text(encoding="utf-8").split("  - Tutorials:")[1].split("  - Reference:")[0]
    pages = re.findall(r"^ +- ([a-z_]+\.md)$", nav, flags=re.MULTILINE)
    return [ROOT / "README.md", *(ROOT / "docs" / name for name in pages)]


def sentences(text: str) -> Iterator[str]:
    """Yield the sentences of a page, without its code, tables, headings, and what links lead to."""
    text = re.sub(r"^ *```.*?^ *```", "", text, flags=re.DOTALL | re.MULTILINE)
    text = re.sub(r"^ *(\||#|!\[| {4}\S).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"\]\([^)]*\)", "]", re.sub(r"`[^`]*`", "`", text))
    for paragraph in re.split(r"\n\s*\n|\n(?= *(?:[-*]|\d+\.) )", text):
        yield from re.split(r"(?<=[.!?])[)\"*]*\s+(?=[\"(*\[`]*[A-Z0-9`])", " ".join(paragraph.split()))


def too_long(text: str) -> list[str]:
    """Return sentences of more than `LONGEST` words; each piece of code counts as a word at most."""
    return [one for one in sentences(text) if sum(bool(re.search(r"[\w`]", word)) for word in one.split()) > LONGEST]


@pytest.mark.parametrize("page", how_to(), ids=lambda page: page.stem)
def test_no_sentence_is_too_long(page: Path) -> None:
    assert too_long(page.read_text(encoding="utf-8")) == []


def test_the_length_is_of_sentences_and_not_of_code_or_tables() -> None:
    many = "word " * LONGEST
    assert too_long(f"A {many}.") == [f"A {many}."]
    fine = [f"{many}. Another", f"| a | {many} word |", f"```\n{many} word\n```", f"- {many}\n- word", f"`{many}` word"]
    assert [text for text in fine if too_long(text)] == []


def test_no_page_text_or_comment_has_a_word_of_our_own() -> None:
    words = avoided()
    assert len(words) >= 15
    assert [line for path in files() for line in found_in(path, words)] == []


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.md", "Three images mended.\n\n```\nmended\n```\n\nand `mended`", 1),
        ("a.py", 'mended = {"mended": 1}  # what is mended\n"""It mended\nthe mended one."""', 3),
        ("a.toml", 'title = "images, mended"', 1),
    ],
)
def test_the_check_reads_prose_and_no_names(tmp_path: Path, name: str, text: str, expected: int) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert len(found_in(tmp_path / name, {"mended": "fixed"})) == expected
