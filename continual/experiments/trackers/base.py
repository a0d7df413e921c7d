"""What a tracker is: it gets every finished cell, with its series and its figures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from continual.errors import InputError
from continual.metrics import measures
from continual.metrics.cell import Cell


class Tracker(ABC):
    """Logs cells; `folder` is the run's, for what is kept on the disk."""

    name: ClassVar[str]  #: what `--log` calls it
    summary: ClassVar[str]  #: one line
    package: ClassVar[str]  #: what it imports, and what its extra is named by

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            self.library: Any = import_module(self.package)
        except ImportError as error:
            raise InputError(f"--log {self.name} needs the extra: pip install 'equimos[{self.name}]'") from error

    def log(self, cell: Cell, title: str) -> None:
        """Log one cell of the benchmark called `title`: settings, a series for each metric, and final figures."""
        metrics = measures([cell])
        series = {metric.column: metric(cell) for metric in metrics}
        steps = [
            {f"{name}": values[step] for name, values in series.items() if values[step] is not None}
            for step in range(len(cell.evaluations))
        ]
        figures = {metric.name: value for metric in metrics if (value := metric.figure(cell)) is not None}
        settings = {"method": cell.method, "seed": cell.seed, **dict(cell.settings)}
        self.write(f"{cell.label}, seed {cell.seed}", title, settings, steps, figures)

    @abstractmethod
    def write(
        self, label: str, title: str, settings: dict[str, Any], steps: list[dict[str, Any]], figures: dict[str, float]
    ) -> None:
        """Write one run: `steps` are the metrics after each experience, `figures` those of the whole stream."""


def quietly(value: Any, change: Callable[[Any], Any] = str) -> Any:
    """Return numbers, texts and truths as they are, all else as text: trackers take no other settings.

    >>> quietly(0.5), quietly(None), quietly([1, 2])
    (0.5, 'None', '[1, 2]')
    """
    return value if isinstance(value, bool | int | float | str) else change(value)
