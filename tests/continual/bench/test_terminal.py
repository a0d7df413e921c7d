"""`equimos learn` on a real (pseudo-)terminal: typed answers, Ctrl-C and Ctrl-D, and what they leave behind."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import continual
from continual.bench import versions
from continual.bench.cli import app

pty = pytest.importorskip("pty", reason="needs a POSIX system")

Pictures = Callable[..., Path]
LEARN, KEEP = "Learn this? [y/N] ", "Keep it? [y/N] "
CTRL_C, CTRL_D = "\x03", "\x04"
SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"

pytestmark = pytest.mark.filterwarnings("ignore:.*use of (fork|forkpty):DeprecationWarning")


def talk(words: list[object], *turns: tuple[str, str]) -> tuple[int, str]:
    """Run a command in a copy of this process that has a terminal of its own; return its exit code and all it said.

    Each turn waits until something was said, then types an answer.
    """
    child, terminal = pty.fork()
    if child == 0:
        code = 99
        os.environ["COLUMNS"] = "500"  # the length of lines is not what is looked at here
        try:
            sys.stdin, sys.stdout, sys.stderr = open(0), open(1, "w"), open(2, "w")  # noqa: SIM115 - not pytest's
            app([str(word) for word in words], prog_name="equimos")
        except SystemExit as end:
            code = int(end.code or 0)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    said, left, deadline = "", list(turns), time.monotonic() + 120
    while True:
        assert select.select([terminal], [], [], deadline - time.monotonic())[0], f"silent after {said!r}"
        try:
            more = os.read(terminal, 4096).decode()
        except OSError:  # how Linux says that nobody has the other end any more
            more = ""
        if not more:
            break
        said += more
        if left and left[0][0] in said:
            os.write(terminal, left.pop(0)[1].encode())
    os.close(terminal)
    assert not left, f"never asked {left[0][0]!r}: {said!r}"
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), said.replace("\r\n", "\n")


@pytest.mark.parametrize(
    ("turns", "code", "last"),
    [
        ([(LEARN, "\n")], 1, "nothing learned; {model} is as it was"),
        ([(LEARN, CTRL_D)], 1, "nothing learned; {model} is as it was"),
        ([(LEARN, CTRL_C)], 130, "interrupted: {model} is as it was"),
        ([(LEARN, "y\n"), (KEEP, "no\n")], 1, "not kept; {model} is as it was"),
        ([(LEARN, "y\n"), (KEEP, CTRL_C)], 130, "interrupted: {model} is as it was"),
        ([(LEARN, "y\n"), ("training", CTRL_C)], 130, "interrupted: {model} is as it was"),
    ],
    ids=["enter", "end", "stop", "not kept", "stop at keeping", "stop while training"],
)
def test_whatever_is_not_a_yes_leaves_the_model(
    model: Path, pictures: Pictures, turns: list[tuple[str, str]], code: int, last: str
) -> None:
    before = model.read_bytes()
    ended, said = talk(["learn", "-i", pictures("more", ["iris"]), "-m", model, "--device", "cpu"], *turns)
    assert ended == code, said
    assert said.replace(SHOW_CURSOR, "").splitlines()[-1] == last.format(model=model)
    assert said.rfind(SHOW_CURSOR) >= said.rfind(HIDE_CURSOR)
    assert model.read_bytes() == before
    assert list(model.parent.iterdir()) == [model]


def test_two_yeses_keep_what_was_learned(model: Path, pictures: Pictures) -> None:
    words = ["learn", "-i", pictures("more", ["iris"]), "-m", model, "--device", "cpu"]
    code, said = talk(words, (LEARN, "y\n"), (KEEP, "YES\n"))
    assert code == 0, said
    assert "3 classes in 2 experiences" in said.splitlines()[-1]
    assert continual.load(model).classes == ("rose", "tulip", "iris")
    assert len(versions.versions(model)) == 2
