"""The model in use, and its replacement when the file changes: whole, and between two requests."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from continual.learning.answers import Scores
from continual.learning.learner import IncrementalLearner

Learner = IncrementalLearner[Any]
#: which file lies at a path: files are replaced, never changed
Signature = tuple[int, int, int]


@dataclass(frozen=True)
class Served:
    """A model as requests see it. Each keeps the one it began with."""

    learner: Learner
    signature: Signature

    def prepare(self, image: Image.Image) -> Tensor:
        """Return the model's input (3, H, W)."""
        prepared: Tensor = self.learner.backbone.preprocessing.evaluation()(image)
        return prepared

    def scores(self, images: Sequence[Tensor]) -> Scores:
        """Return what the model says of prepared images."""
        return self.learner.score_batch(torch.stack(list(images)))


class ModelInUse:
    """The newest model that could be loaded from a file.

    `load(before)` reads the file; `before` is the learner in use, whose backbone may serve again, or None. The
    constructor raises what it raises.
    """

    def __init__(self, path: Path, load: Callable[[Learner | None], Learner]) -> None:
        self._path, self._load, self._lock = path, load, threading.Lock()
        self._tried = self._signature()
        self.now = Served(load(None), self._tried)
        self.problem: str | None = None  #: why the file as it is now could not be loaded

    def refresh(self) -> bool:
        """Load the file if it is another than the last one tried; return whether the model in use has changed.

        One that cannot be loaded leaves the old in use, and `problem` says why. It takes as long as loading does.
        """
        with self._lock:
            try:
                signature = self._signature()
                if signature == self._tried:
                    return False
                self._tried = signature
                self.now = Served(self._load(self.now.learner), signature)
            except Exception as error:  # whatever is wrong with the file: the server goes on
                self.problem = f"{type(error).__name__}: {error}"
                return False
            self.problem = None
            return True

    def _signature(self) -> Signature:
        found = self._path.stat()
        return found.st_ino, found.st_mtime_ns, found.st_size
