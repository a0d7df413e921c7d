"""Prose keeps to the field's terms: the table of docs/glossary.md names words of our own, and what stands for each."""

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
