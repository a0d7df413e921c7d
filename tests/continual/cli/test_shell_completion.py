"""Completion as a person installs it, in real shells on a pseudo-terminal; a shell that is not here is skipped."""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import ROOT

pty = pytest.importorskip("pty", reason="needs a POSIX system")


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """The environment of somebody with an empty home, and `equimos` on the path."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "equimos"
    command.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m continual "$@"\n')
    command.chmod(0o755)
    path = os.pathsep.join([str(command.parent), os.environ["PATH"]])
    return {"HOME": str(tmp_path), "PATH": path, "PYTHONPATH": str(ROOT), "TERM": "dumb"}


def shell_here(name: str) -> str:
    """Return the path of a shell, or skip the test."""
    return shutil.which(name) or pytest.skip(f"no {name} here")


class Typist:
    """Someone at a shell, who waits for what it says."""

    def __init__(self, terminal: int) -> None:
        self.terminal, self.said = terminal, ""

    def type(self, keys: str) -> None:
        os.write(self.terminal, keys.encode())

    def sees(self, text: str, seconds: float) -> bool:
        """Read until a text was said, or for so long."""
        end = time.monotonic() + seconds
        while text not in self.said and (left := end - time.monotonic()) > 0:
            if select.select([self.terminal], [], [], left)[0]:
                self.said += os.read(self.terminal, 4096).decode(errors="replace")
        return text in self.said


@contextmanager
def at(words: list[str], environment: dict[str, str]) -> Iterator[Typist]:
    """Run a shell on a terminal of its own."""
    terminal, other_end = pty.openpty()
    ends = {"stdin": other_end, "stdout": other_end, "stderr": other_end}
    child = subprocess.Popen(words, env=environment, cwd=ROOT, start_new_session=True, **ends)
    os.close(other_end)
    try:
        yield Typist(terminal)
    finally:
        child.kill()
        child.wait()
        os.close(terminal)


@pytest.mark.parametrize(
    ("name", "typed", "completed"),
    [
        ("bash", "equimos pred", "equimos predict"),
        pytest.param("bash", "equimos show quicks", "equimos show quickstart", marks=pytest.mark.slow),
        ("zsh", "equimos pred", "equimos predict"),
    ],
)
def test_tab_completes_once_it_is_installed(name: str, typed: str, completed: str, home: dict[str, str]) -> None:
    shell = shell_here(name)
    # `-i` and the second command: else the shell replaces itself by the command, whose parent then is another
    words = [shell, "-ic", "equimos --install-completion; true"]
    done = subprocess.run(words, env=home, capture_output=True, text=True, check=False, start_new_session=True)
    assert f"{name} completion installed" in done.stdout, done.stderr
    with at([shell, "-i"], home) as person:
        person.type("echo re''ady\n")
        assert person.sees("\nready", 60) or person.sees("\rready", 1), person.said
        person.said = ""
        person.type(typed)
        for _ in range(10):  # zsh's first Tab may only load the function
            person.type("\t")
            if person.sees(completed, 6) or person.sees(completed.removeprefix(typed) + " ", 0):
                return
    pytest.fail(f"no {completed!r} in {person.said!r}")


@pytest.mark.parametrize(("name", "hook"), [("bash", "complete "), ("zsh", "compdef ")])
def test_the_script_of_a_shell_is_shown(name: str, hook: str, home: dict[str, str]) -> None:
    words = [shell_here(name), "-ic", "equimos --show-completion; true"]
    done = subprocess.run(words, env=home, capture_output=True, text=True, check=False, start_new_session=True)
    assert "_EQUIMOS_COMPLETE=complete_" in done.stdout, done.stderr
    assert any(line.startswith(hook) and "equimos" in line for line in done.stdout.splitlines())
