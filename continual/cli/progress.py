"""Progress bars with the time left and live figures, from the learners' progress callback."""

from __future__ import annotations

from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Column

from continual.escaping import terminal

#: a stage with this in its name is one step of a larger stage
INNER = ": "


class ProgressBars:
    """A `continual.learning.training.Progress` that draws one bar a stage; use it in a `with` block.

    Where there is no terminal nothing moves: a stage leaves one line when it is finished. A stage that is
    one step of a larger one ("mos, experience 2/5: training") leaves nothing.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._bars = Progress(
            TextColumn("{task.description}", markup=False, table_column=Column(ratio=2)),
            BarColumn(bar_width=None, table_column=Column(ratio=1)),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            TextColumn("{task.fields[figures]}", markup=False),
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
        stage, text = terminal(stage), "  ".join(f"{name} {value:.3f}" for name, value in figures.items())
        if stage not in self._tasks:
            self._tasks[stage] = self._bars.add_task(stage, total=total, figures="")
            if INNER not in stage:
                # A stage is first heard of when a part of it is done: it began where the last one ended.
                self._bars.tasks[-1].start_time = self._free_since
        self._bars.update(self._tasks[stage], completed=done, total=total, figures=text)
        if done < total:
            return
        bar = self._tasks.pop(stage)
        if INNER in stage:
            self._bars.remove_task(bar)
            return
        now = self._bars.get_time()
        if not self.console.is_terminal:
            self.console.print(f"{stage}: {total} in {now - self._free_since:.1f} s{'  ' if text else ''}{text}")
        self._free_since = now
