"""What a cell's times are: as if nothing had been saved; and which share of them waited for images."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from continual.experiments.prepared import PreparedOnce
from continual.learning.extractor import Progress
from continual.learning.feature_store import FeatureStore


class Clock:
    """Time from now on, with what is saved meanwhile: seconds as if all had been opened, prepared and computed."""

    def __init__(self, *savers: FeatureStore | PreparedOnce | None) -> None:
        self.savers = [saver for saver in savers if saver is not None]
        self.started, self.before = time.perf_counter(), sum(saver.saved for saver in self.savers)

    def saved(self) -> float:
        """Return what was saved."""
        return sum(saver.saved for saver in self.savers) - self.before

    def seconds(self) -> float:
        """Return what it would have taken."""
        return time.perf_counter() - self.started + self.saved()


@dataclass
class Waited:
    """Passes an experience's progress on, and notes the share of the training that waited for images."""

    progress: Progress | None
    place: str = ""
    share: float | None = None

    def __call__(self, stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        self.share = figures.get("waiting", self.share)
        if self.progress is not None:
            self.progress(self.place + stage, done, total, figures)


@contextmanager
def waiting(progress: Progress | None, label: str) -> Iterator[None]:
    """Say what is waited for while the block runs: a stage of one step."""
    if progress is not None:
        progress(label, 0, 1, {})
    yield
    if progress is not None:
        progress(label, 1, 1, {})
