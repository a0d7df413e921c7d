"""Progress bars that say what is done, of how much, and how long it takes, from the learners' progress callback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, Progress, Task, TaskID, TextColumn
from rich.table import Column

from continual.console import console, count
from continual.escaping import terminal

#: a stage with this in its name is one step of a larger stage
INNER = ": "

#: what the steps of a stage are, by a word of its name; the first that fits
UNITS = {"image": "image", "feature": "image", "predicting": "image", "epoch": "epoch", "training": "step"}
UNITS |= {"seed": "experience", "backbone": "epoch", "weights": "step", "head": "step", "everything": "step"}
UNITS = {"the backbone": "epoch", "comparing": "pair", **UNITS}

#: what a learner says beside its progress, in words; shares are shown in percent
FIGURES = {"waiting": "data loading", "accuracy": "accuracy", "upright": "untransformed", "turned": "transformed"}


class ProgressBars:
    """A `continual.learning.training.Progress` that draws one bar a stage; use it in a `with` block.

    Where there is no terminal nothing moves: a stage leaves one line when it is finished. A stage that is
    one step of a larger one ("mos, experience 2/5: training") leaves nothing, nor does a wait: a stage that is 0 of 1
    when it is first reported.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars = Progress(
            TextColumn("{task.description}", markup=False, table_column=Column(ratio=2)),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            _Said(console.width // 2, markup=False, table_column=Column(no_wrap=True)),
            console=console,
            disable=console.quiet or not console.is_terminal,
            redirect_stdout=False,  # results may go to a file while the bars are on the terminal
            expand=True,
        )
        self._tasks: dict[str, TaskID] = {}
        self._free_since = 0.0

    def __enter__(self) -> Self:
        self._bars.start()
        self._free_since = self._bars.get_time()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def __call__(self, stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        """Say that `done` of `total` steps of a stage are done; a stage may come again once it is finished."""
        stage, text = terminal(stage), "  ".join(figure(name, value) for name, value in figures.items())
        if stage not in self._tasks:
            wait = done == 0 and total == 1
            shown = self._within(stage)
            self._tasks[stage] = self._bars.add_task(shown, total=None if wait else total, figures="", stage=stage)
            if INNER not in stage:
                # A stage is first reported when a part of it is done: it began where the last one ended.
                self._bars.tasks[-1].start_time = self._free_since
        waited = next(task for task in self._bars.tasks if task.id == self._tasks[stage]).total is None
        self._bars.update(self._tasks[stage], completed=done, figures=text)
        if done < total:
            return
        bar = self._tasks.pop(stage)
        if waited or INNER in stage:
            self._bars.remove_task(bar)
            if waited:
                self._free_since = self._bars.get_time()
            return
        now = self._bars.get_time()
        if not self.console.is_terminal:
            took = (
                f"{counted(stage, total)} in {clock(now - self._free_since)}"
                if total > 1
                else clock(now - self._free_since)
            )
            self.console.print(f"{stage}: {took}{'  ' if text else ''}{text}")
        self._free_since = now

    def _within(self, stage: str) -> str:
        """Return what to call a stage: of one step of a stage that is drawn above it, what that does not say.

        "mos, seed 1, experience 2/5: training" is "experience 2/5: training" below "mos, seed 1".
        """
        larger = [f"{other}, " for other in self._tasks if stage.startswith(f"{other}, ")]
        return stage.removeprefix(max(larger, key=len, default=""))

    @contextmanager
    def waiting(self, label: str) -> Iterator[None]:
        """Say what is waited for while the block runs."""
        self(label, 0, 1, {})
        try:
            yield
        finally:
            self(label, 1, 1, {})


@contextmanager
def waiting(label: str) -> Iterator[None]:
    """Say on standard error what is waited for while the block runs, where no other bars are drawn."""
    with ProgressBars(console(stderr=True)) as bars, bars.waiting(label):
        yield


class _Said(TextColumn):
    """How far a stage is, in words: "3 of 10 experiences, 1:20 left"; figures go below where `width` is not enough."""

    def __init__(self, width: int, **options: object) -> None:
        super().__init__("{task.fields[figures]}", **options)  # type: ignore[arg-type]
        self.width = width

    def render(self, task: Task) -> object:  # type: ignore[override]
        """Return what is said of a task."""
        text = super().render(task)
        done, total, stage = int(task.completed), int(task.total or 0), str(task.fields["stage"])
        if task.total is None:
            said = clock(task.elapsed or 0)
        elif task.finished:
            took = clock(task.finished_time or 0)
            said = f"{counted(stage, total)}, {took}" if total > 1 else took
        else:
            left = "" if task.time_remaining is None else f", {clock(task.time_remaining)} left"
            said = f"{done} of {counted(stage, total)}{left}"
        gap = "  " if len(said) + len(text.plain) + 2 <= self.width else "\n"
        text.plain = f"{said}{gap}{text.plain}" if text.plain else said
        return text


def counted(stage: str, total: int) -> str:
    """Write how many steps of what a stage has.

    >>> counted("collecting features", 8), counted("mos, seed 1993", 10), counted("comparing images", 3)
    ('8 images', '10 experiences', '3 pairs')
    """
    inner = stage.rpartition(INNER)[2]
    return count(total, next((unit for word, unit in UNITS.items() if word in inner), "step"))


def figure(name: str, value: float) -> str:
    """Write a figure beside a bar.

    >>> figure("waiting", 0.41), figure("loss", 0.1234), figure("accuracy", 0.5)
    ('data loading 41 %', 'loss 0.123', 'accuracy 50.0 %')
    """
    if name not in FIGURES:
        return f"{name} {value:.3f}"
    return f"{FIGURES[name]} {100 * value:.{0 if name == 'waiting' else 1}f} %"


def clock(seconds: float) -> str:
    """Write a time as it is read: seconds with a tenth below ten of them, else minutes.

    >>> clock(0.34), clock(42), clock(80), clock(7325)
    ('0.3 s', '0:42', '1:20', '2:02:05')
    """
    if seconds < 10:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"
