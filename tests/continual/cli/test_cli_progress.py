"""Progress bars: alive on a terminal, one line a stage elsewhere."""

from __future__ import annotations

import ast
import io
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from continual.cli import loading, progress
from continual.cli.loading import loading_pytorch
from continual.cli.progress import ProgressBars

MEASURED, ADVISED = "measuring how long that will take", "answering each image from the others"


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
    assert first.startswith("training: 2 steps in ")
    assert first.endswith("loss 0.500")
    assert second.startswith("run: ")
    assert second.endswith("accuracy 75.0 %")


def test_on_a_terminal_finished_bars_stay_and_inner_ones_go() -> None:
    text = drawn(Console(file=io.StringIO(), width=100, force_terminal=True, color_system=None))
    last = text.split("\x1b[2K")[-1]
    assert "2 steps" in last
    assert "loss 0.500" in last
    assert "accuracy 75.0 %" in last
    assert "part 1/1" not in last


def test_a_stage_may_come_again() -> None:
    console = Console(file=io.StringIO(), width=100)
    with ProgressBars(console) as bars:
        for _ in range(2):
            bars("training the backbone", 1, 1, {})
    assert console.file.getvalue().count("training the backbone: ") == 2  # type: ignore[attr-defined]


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
    assert (" 5.0 s" if terminal else "training: 5.0 s") in shown
    assert ("8 images, 7.0 s" if terminal else "collecting features: 8 images in 7.0 s") in shown


def test_an_error_leaves_the_terminal_usable() -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=True)

    def fail() -> None:
        with ProgressBars(console) as bars:
            bars("training", 1, 2, {})
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert console.file.getvalue().endswith("\x1b[?25h")  # type: ignore[attr-defined] # the cursor is back


def test_progress_says_units_and_the_time_left() -> None:
    now = 0.0
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system=None, get_time=lambda: now)
    with ProgressBars(console) as bars:
        for done in (1, 2, 3):
            now = 20.0 * done
            bars("mos, seed 1993", done, 7, {"accuracy": 0.5})
            bars("mos, seed 1993, experience 4/7: training", 5, 10, {"loss": 0.5, "waiting": 0.41})
        bars._bars.refresh()
        shown = console.file.getvalue().split("\x1b[2K")[-1]  # type: ignore[attr-defined]
    assert "3 of 7 experiences, 1:20 left" in shown
    assert "5 of 10 steps" in shown
    assert "loss 0.500  data loading 41 %" in shown


@pytest.mark.parametrize("terminal", [False, True])
def test_a_wait_has_a_label_while_it_lasts(terminal: bool) -> None:
    console = Console(file=io.StringIO(), width=100, force_terminal=terminal, color_system=None)
    with ProgressBars(console) as bars:
        with bars.waiting("loading the model"):
            bars._bars.refresh()
            during = console.file.getvalue()  # type: ignore[attr-defined]
        bars("predicting", 2, 2, {})
    after = console.file.getvalue().split("\x1b[2K")[-1]  # type: ignore[attr-defined]
    assert ("loading the model" in during) is terminal
    assert "loading the model" not in after
    assert "2 images" in after


def test_at_80_columns_no_line_is_torn() -> None:
    """A step's bar says what the one above does not, and its figures go below rather than squeeze the label."""
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None, get_time=lambda: 0.0)
    with ProgressBars(console) as bars:
        bars("simple_cil, seed 1993", 2, 5, {"accuracy": 0.5})
        figures = {"loss": 0.326, "waiting": 0.45}
        bars("simple_cil, seed 1993, experience 3/5: training", 54, 170, figures)
        bars._bars.refresh()
        shown = console.file.getvalue().split("\x1b[2K")[-1]  # type: ignore[attr-defined]
    outer, inner, below = shown.splitlines()[:3]
    assert outer.startswith("simple_cil, seed 1993 ")
    assert "2 of 5 experiences" in outer
    assert inner.startswith("experience 3/5: training ")
    assert "54 of 170 steps" in inner
    assert below.strip() == "loss 0.326  data loading 45 %"
    assert all(len(line) <= 80 for line in (outer, inner, below))


def test_what_loads_pytorch_says_so_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(progress, "waiting", lambda label: said.append(label) or nullcontext())
    with loading_pytorch():
        pass
    assert said == [], "it is loaded already, in this process"
    monkeypatch.delitem(sys.modules, "torch")
    with loading_pytorch():
        pass
    assert said == ["loading PyTorch"]


def test_every_command_that_opens_models_loads_pytorch_under_a_label() -> None:
    without, seen = [], 0
    for path in Path(loading.__file__).parent.glob("*.py"):
        for function in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(function, ast.FunctionDef) or ".command(" not in "".join(
                map(ast.unparse, function.decorator_list)
            ):
                continue
            text = ast.unparse(function)
            if re.search(r"from continual\.cli(\.opening import| import opening)", text):
                seen += 1
                without += [] if "with loading_pytorch():" in text else [f"{path.name}: {function.name}"]
    assert seen > 10
    assert without == []


@pytest.mark.parametrize(
    ("words", "labels"),
    [
        ("learn --dry-run -i IMAGES -m NEW --weights WEIGHTS", ["loading the backbone", MEASURED]),
        ("learn --dry-run -i IMAGES -m MODEL --weights WEIGHTS", ["loading the model", MEASURED]),
        ("predict -m MODEL IMAGES", ["loading the model"]),
        ("port --dry-run -m MODEL -i IMAGES --to-weights OTHER", ["loading the model", "loading the new backbone"]),
        ("compress --dry-run --weights WEIGHTS -i IMAGES --out NEW", ["loading the backbone"]),
        ("equivariance advise IMAGES --weights WEIGHTS", ["loading the backbone", ADVISED]),
        ("serve -m MODEL --port 0", ["loading the model, and trying an answer"]),
        pytest.param(
            "export -m MODEL --onnx BOX.onnx",
            ["loading the model", "writing the graph, and comparing its answers with PyTorch's"],
            marks=pytest.mark.slow,
        ),
    ],
)
def test_every_wait_of_a_command_has_a_label(
    words: str,
    labels: list[str],
    equimos: Callable[..., Any],
    model: Path,
    weights: Path,
    other_weights: Path,
    pictures: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from continual.serving import server

    said: list[str] = []

    @contextmanager
    def waiting(_: ProgressBars, label: str) -> Iterator[None]:
        said.append(label)
        yield

    monkeypatch.setattr(ProgressBars, "waiting", waiting)
    monkeypatch.setattr(server, "run", lambda *_: None)
    there = {"MODEL": model, "WEIGHTS": weights, "OTHER": other_weights, "IMAGES": pictures("some", ["a", "b"], 20)}
    there |= {"NEW": model.with_name("new.safetensors"), "BOX.onnx": model.with_name("box.onnx")}
    result = equimos(*[there.get(word, word) for word in words.split()])
    assert result.exit_code == 0, result.stderr
    assert said == labels
