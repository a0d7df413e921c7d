"""The model in use, what it says of an image, and its replacement when the file changes, between two requests."""

from __future__ import annotations

import json
import math
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from continual.data.bands import pictures
from continual.data.inputs import Label, prepared
from continual.errors import EquimosError
from continual.learning.answers import Scores
from continual.learning.doubts import typicality, unsure
from continual.learning.learner import IncrementalLearner
from continual.learning.recent_features import RecentFeatures
from continual.lifecycle import contents

Learner = IncrementalLearner[Any]
#: which file lies at a path, and when it was changed
Signature = tuple[int, int, int]

BEST = 5  #: classes listed


@dataclass(frozen=True)
class Served:
    """A model as requests see it. Each keeps the one it began with."""

    learner: Learner
    signature: Signature

    @property
    def channels(self) -> int:
        """How many channels images have that the model is asked about."""
        return self.learner.preprocessing.channels

    def prepare(self, image: Image.Image | np.ndarray) -> Tensor:
        """Return the model's input (C, H, W) of a picture, or of an array (H, W, C) in the range that was learned."""
        preprocessing = self.learner.preprocessing
        return prepared(image, 0, preprocessing, preprocessing.evaluation(), self.learner.state.value_range)

    def trial(self) -> None:
        """Answer for a blank image as for a request, or raise: a model that cannot is not to be served."""
        many = not pictures(self.channels)
        blank = np.zeros((48, 64, self.channels), np.uint8) if many else Image.new("RGB", (64, 48))
        found = answer(self, self.scores([self.prepare(blank)]), 0, 0.05)
        json.dumps({"answers": found, "classes": self.learner.classes}, allow_nan=False, ensure_ascii=False).encode()

    def scores(self, images: Sequence[Tensor]) -> Scores:
        """Return what the model says of prepared images."""
        return self.learner.score_batch(torch.stack(list(images)))


def answer(model: Served, scores: Scores, row: int, false_alarm_rate: float) -> dict[str, Any]:
    """Return what `Prediction` has for one image of a batch, as JSON values; what the method does not know is None.

    `best` lists the likeliest classes, `nearest` those whose prototypes have the largest cosine.
    """

    def own(values: Tensor | None) -> Any:
        return None if values is None else values[row].tolist()

    def top(values: Tensor) -> list[int]:
        return values[row].argsort(descending=True).tolist()[:BEST]

    values, cosines, p_value = own(scores.values), own(scores.similarity), own(scores.p_value)
    threshold = None if scores.anomaly is None else model.learner.anomaly_threshold(false_alarm_rate)
    classes = model.learner.classes
    probabilities = own(scores.probabilities) or [None] * len(classes)
    near = None if scores.similarity is None else top(scores.similarity)
    best = [{"class": classes[c], "score": values[c], "probability": probabilities[c]} for c in top(scores.values)]
    return {
        "answer": best[0]["class"],
        "score": best[0]["score"],
        "probability": best[0]["probability"],
        "unsure": unsure(best[0]["probability"]),
        "unknown": None if p_value is None else p_value <= false_alarm_rate,
        "familiarity": p_value,
        "typicality": None if p_value is None else typicality(p_value),
        "anomaly": own(scores.anomaly),
        "anomaly_threshold": None if threshold == math.inf else threshold,
        "stack": own(scores.stack),
        "refinements": own(scores.refinements),
        "best": best,
        "nearest": near and [{"class": classes[c], "similarity": cosines[c]} for c in near],
    }


def described(model: Served) -> dict[str, Any]:
    """Return which model answers."""
    learner = model.learner
    return {"method": learner.method, "classes": len(learner.classes), "updates": learner.state.updates}


class ModelInUse:
    """The newest model that could be loaded from a file.

    `load(before)` reads the file; `before` is the learner in use, whose backbone may serve again, or None. The
    constructor raises what it raises.
    """

    def __init__(self, path: Path, load: Callable[[Learner | None], Learner]) -> None:
        self.path, self._load, self._lock = path, load, threading.Lock()
        self._recent: RecentFeatures | None = None
        self._tried = self._seen = self._signature()
        self.now = self._loaded(None, self._tried)
        self.problem: str | None = None  #: why the file as it is now could not be loaded

    def keep_features(self) -> None:
        """From now on, keep features of what is asked about: learning it takes no further pass."""
        with self._lock:
            self._recent = RecentFeatures()
            self._asked(self.now)

    def refresh(self) -> bool:
        """Load the file if it is another than the last one tried; return whether the model in use has changed.

        One that cannot be loaded, or does not answer, leaves the old in use, and `problem` says why. A file that is
        changed in its place, by `cp` say, is loaded once it looks as it did the time before. It takes as long as
        loading does.
        """
        with self._lock:
            try:
                signature = self._signature()
                in_place, settled = signature[0] == self._tried[0], signature == self._seen
                self._seen = signature
                if signature == self._tried or (in_place and not settled):
                    return False
                self._tried = signature
                self.now = self._loaded(self.now.learner, signature)
            except Exception as error:  # whatever is wrong with the file: the server continues
                self.problem = f"{type(error).__name__}: {error}"
                return False
            self.problem = None
            return True

    def like(self, model: Served, learner: Learner, image: Tensor) -> list[tuple[Label, float, Image.Image]]:
        """Return class, cosine and picture of the thumbnails in the file that are most like an image (C, H, W).

        There are none where none were kept, or the file is no longer that of `model`; `learner` may be a variant of it.
        """
        try:
            found = contents.read(self.path)
            kept = found.thumbnails if contents.THUMBNAILS in found.memory else None
            if kept is None or self._signature() != model.signature:
                return []
        except (EquimosError, OSError):  # the file is gone, or another
            return []
        return kept.nearest(learner, image, found.seen)

    def adopt(self, learner: Learner) -> None:
        """Take the learner that was just written to the file, without reading it again."""
        with self._lock:
            now = Served(learner, self._signature())
            now.trial()
            self.now, self.problem = now, None
            self._tried = self._seen = now.signature

    def _loaded(self, before: Learner | None, signature: Signature) -> Served:
        loaded = Served(self._load(before), signature)
        self._asked(loaded)
        return loaded

    def _asked(self, model: Served) -> None:
        """Ask a model for a trial answer; where features are kept, those of all trials are from now on."""
        if self._recent is not None:
            model.learner.store = self._recent
            model.learner.trial()
        model.trial()

    def _signature(self) -> Signature:
        found = self.path.stat()
        return found.st_ino, found.st_mtime_ns, found.st_size
