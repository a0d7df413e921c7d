"""Progress bars: alive on a terminal, one line a stage elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from continual.bench.progress import ProgressBars


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


def test_an_error_leaves_the_terminal_usable() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)

    def fail() -> None:
        with ProgressBars(console) as bars:
            bars("training", 1, 2, {})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert console.file.getvalue().endswith("\x1b[?25h")  # type: ignore[attr-defined] # the cursor is back
