"""Names and files of others, and bad luck."""

from __future__ import annotations

import csv
import os
import shutil
import stat
from pathlib import Path

from continual import files
from continual.console import console
from continual.lifecycle import locks
from tests.field.case import Case


def _names_are_shown(folder: Path) -> None:
    shown = console()
    with shown.capture() as found:
        shown.print("\x1b[2Jrose\nnote: all is well")
    assert found.get() == "\\x1b[2Jrose\\nnote: all is well\n"


def _formulas_are_text(folder: Path) -> None:
    files.write_text(folder / "p.csv", files.csv_text([["file", "score"], ["=1+1.png", -0.5]]))
    assert [*csv.reader((folder / "p.csv").read_text().splitlines())][1] == ["'=1+1.png", "-0.5"]


def _locks_of_the_dead_are_free(folder: Path) -> None:
    (folder / ".model.lock").write_text("process 1 on a machine that was switched off")
    (folder / "model").write_text("model")
    with locks.claimed(folder / "model"):
        assert (folder / ".model.lock").read_text().startswith(f"process {os.getpid()} on ")
    assert not (folder / ".model.lock").exists()


def _modes_are_kept(folder: Path) -> None:
    files.write_text(folder / "private.json", "{}")
    (folder / "private.json").chmod(0o600)
    files.write_text(folder / "private.json", "[]")
    assert stat.S_IMODE((folder / "private.json").stat().st_mode) == 0o600


def _copied_over(folder: Path) -> None:
    import torch

    files.store(folder / "a", {"x": torch.zeros(4)}, {})
    files.store(folder / "b", {"x": torch.ones(2)}, {})
    kept, _ = files.fetch(folder / "a")
    shutil.copyfile(folder / "b", folder / "a")
    assert kept["x"].tolist() == [0.0] * 4
    assert files.fetch(folder / "a")[0]["x"].tolist() == [1.0] * 2


CASES = [
    Case(
        "Strangers and bad luck",
        "A class folder or file whose name holds escape codes, line breaks or characters that reverse the order",
        "They are written out (`\\x1b`, `\\n`, `\\u202e`) in the terminal, tables, Markdown, LaTeX, CSV and pages.",
        "Reports of terminals and logs that were changed by file names",
        _names_are_shown,
    ),
    Case(
        "Strangers and bad luck",
        "A file name or class that begins with `=`, `+`, `-` or `@`, in a CSV of results",
        "The cell begins with an apostrophe, so that a spreadsheet shows it; numbers stay numbers.",
        "Reports of formulas in exported tables",
        _formulas_are_text,
    ),
    Case(
        "Strangers and bad luck",
        "A lock file that a killed process left beside a model",
        "It is in nobody's way: the operating system freed the lock, and the next command takes the file away.",
        "Reports of jobs that wait for the lock of a node that crashed",
        _locks_of_the_dead_are_free,
        row="",
    ),
    Case(
        "Strangers and bad luck",
        "A file that only its owner may read, and that is written again",
        "It keeps its mode; a new file has what the umask leaves.",
        "Reports of files that others could read after a save",
        _modes_are_kept,
        row="",
    ),
    Case(
        "Strangers and bad luck",
        "A model or weights file that is copied over with `cp` while a program has it loaded",
        "What was loaded stays as it was: files are read, and never mapped to memory.",
        "Reports of bus errors after weights were replaced under a running service",
        _copied_over,
    ),
]
