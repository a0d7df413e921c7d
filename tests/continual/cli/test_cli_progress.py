"""Progress bars: alive on a terminal, one line a stage elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from continual.cli.progress import ProgressBars


def drawn(console: Console) -> str:
    """Run two stages, one with a step inside it, and return what was written."""
    with ProgressBars(console) as bars:
        for done in (1, 2):
            bars("training", done, 2, {"loss": done / 4})
        bars("run, part 1/1: training", 3, 3, {"loss": 9.0})
        bars("run", 1, 1, {"accuracy": 0.75})
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue()


def test_without_a_terminal_a_finished_stage_leaves_one_line() -> None:
    first, second = drawn(Console(file=io.StringIO(), width=100)).splitlines()
    assert first.startswith("training: 2 in ")
    assert first.endswith("loss 0.500")
    assert second.startswith("run: 1 in ")
    assert second.endswith("accuracy 0.750")


def test_on_a_terminal_finished_bars_stay_and_inner_ones_go() -> None:
    text = drawn(Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None))
    last = text.split("\x1b[2K")[-1]
    assert "2/2" in last
    assert "loss 0.500" in last
    assert "accuracy 0.750" in last
    assert "part 1/1" not in last


def test_a_stage_may_come_again() -> None:
    console = Console(file=io.StringIO(), width=100)
    with ProgressBars(console) as bars:
        for _ in range(2):
            bars("training the backbone", 1, 1, {})
    assert console.file.getvalue().count("training the backbone: 1 in") == 2  # type: ignore[attr-defined]


@pytest.mark.parametrize("terminal", [False, True])
def test_a_stage_begins_where_the_last_one_ended(terminal: bool) -> None:
    """A stage of one step calls once, at its end."""
    now = 10.0
    console = Console(file=io.StringIO(), width=100, force_terminal=terminal, color_system=None, get_time=lambda: now)
    with ProgressBars(console) as bars:
        now = 13.0
        bars("run, part 1/1: training", 1, 1, {})
        now = 15.0
        bars("training", 1, 1, {})
        now = 22.0
        bars("collecting features", 8, 8, {})
    shown = console.file.getvalue().split("\x1b[2K")[-1]  # type: ignore[attr-defined]
    assert ("0:00:05" if terminal else "training: 1 in 5.0 s") in shown
    assert ("0:00:07" if terminal else "collecting features: 8 in 7.0 s") in shown


def test_an_error_leaves_the_terminal_usable() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)

    def fail() -> None:
        with ProgressBars(console) as bars:
            bars("training", 1, 2, {})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert console.file.getvalue().endswith("\x1b[?25h")  # type: ignore[attr-defined] # the cursor is back
