"""`equimos learn` on a real (pseudo-)terminal: typed answers, Ctrl-C and Ctrl-D, and what they leave behind."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

import continual
from continual.lifecycle import versions
from tests.conftest import ROOT

pty = pytest.importorskip("pty", reason="needs a POSIX system")
fcntl = pytest.importorskip("fcntl", reason="needs a POSIX system")
termios = pytest.importorskip("termios", reason="needs a POSIX system")

Pictures = Callable[..., Path]
LEARN, KEEP = "Learn this? [y/N] ", "Keep it? [y/N] "
CTRL_C, CTRL_D = "\x03", "\x04"
SHOW_CURSOR, HIDE_CURSOR = "\x1b[?25h", "\x1b[?25l"


def talk(words: list[object], *turns: tuple[str, str]) -> tuple[int, str]:
    """Run a command on a terminal of its own; return its exit code and all it said.

    Each turn waits until something was said, then types an answer.
    """
    terminal, other_end = pty.openpty()
    # A process of its own: a copy of this one would lack the threads that its libraries count on.
    child = subprocess.Popen(
        [sys.executable, "-m", "continual", *[str(word) for word in words]],
        stdin=other_end,
        stdout=other_end,
        stderr=other_end,
        env={**os.environ, "COLUMNS": "500", "OMP_NUM_THREADS": "1"},  # how long lines are is not looked at here
        cwd=ROOT,
        start_new_session=True,
        preexec_fn=_in_the_foreground,
    )
    os.close(other_end)
    said, left, deadline = "", list(turns), time.monotonic() + 120
    while True:
        if not select.select([terminal], [], [], max(0, deadline - time.monotonic()))[0]:
            child.kill()
            child.wait()
            pytest.fail(f"silent after {said!r}")
        try:
            more = os.read(terminal, 4096).decode()
        except OSError:  # how Linux says that nobody has the other end any more
            more = ""
        if not more:
            break
        said += more
        if left and left[0][0] in said:
            # Python sees an interrupt that comes just before its read only when that read ends; nobody types so fast.
            time.sleep(0.2)
            os.write(terminal, left.pop(0)[1].encode())
    os.close(terminal)
    assert not left, f"never asked {left[0][0]!r}: {said!r}"
    return child.wait(timeout=60), said.replace("\r\n", "\n")


def _in_the_foreground() -> None:
    """Let Ctrl-C reach a process: from its terminal, and also where tests run in the background, which ignore it."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


NOTHING, NOT_KEPT = "nothing learned; {model} is as it was", "not kept; {model} is as it was"
STOPPED = "interrupted: {model} is as it was"


@pytest.mark.parametrize(
    ("turns", "code", "last"),
    [
        pytest.param([(LEARN, "\n")], 1, NOTHING, id="enter", marks=pytest.mark.slow),
        pytest.param([(LEARN, CTRL_D)], 1, NOTHING, id="end", marks=pytest.mark.slow),
        pytest.param([(LEARN, CTRL_C)], 130, STOPPED, id="stop", marks=pytest.mark.slow),
        pytest.param([(LEARN, "y\n"), (KEEP, "no\n")], 1, NOT_KEPT, id="not kept", marks=pytest.mark.slow),
        pytest.param([(LEARN, "y\n"), (KEEP, CTRL_C)], 130, STOPPED, id="stop at keeping"),
        pytest.param([(LEARN, "y\n"), ("training", CTRL_C)], 130, STOPPED, id="stop later", marks=pytest.mark.slow),
    ],
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
