"""How a learner is asked: predictions, scores of a batch, and the share of right answers."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, ClassVar, Generic, Self

import torch
from torch import Tensor

from continual import distributed
from continual.data.inputs import ExperienceData, PreparedImages, paths_of, range_of, to_predict
from continual.data.loaders import evaluation_loader
from continual.data.preprocessing import Preprocessing
from continual.data.ranges import ValueRange
from continual.errors import InputError
from continual.learning.answers import Prediction, Scores
from continual.learning.extractor import Progress
from continual.learning.feature_cache import FeatureCache
from continual.learning.state import S
from continual.symmetry.base import Symmetry


class Asking(ABC, Generic[S]):
    """The learner's answers, whatever its method."""

    #: whether it can say of a model of a single class how unusual an image is
    one_class: ClassVar[bool] = False

    settings: Any
    state: S
    device: torch.device

    @property
    @abstractmethod
    def symmetry(self) -> Symmetry | None: ...

    @property
    @abstractmethod
    def preprocessing(self) -> Preprocessing: ...

    @property
    def edited(self) -> Self:
        """The learner that answers: this one, unless concepts are suppressed by an edit of its backbone."""
        return self

    @abstractmethod
    def _scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores: ...

    @abstractmethod
    def _given(self, images: Any, labels: Any, value_range: ValueRange | None) -> ExperienceData: ...

    @abstractmethod
    def indices(self, labels: Any) -> Tensor: ...

    def predict(
        self,
        images: Any,
        *,
        workers: int = 0,
        progress: Progress | None = None,
        cache: FeatureCache | None = None,
        false_alarm_rate: float | None = None,
        unknown_rate: float | None = None,
        value_range: ValueRange | None = None,
    ) -> Prediction:
        """Answer for images as `learn` takes them, a file, a PIL image, or a folder with images at any depth, sorted.

        `value_range` is that of `learn`, for this call alone. Of a loader that shuffles, answers are in the order of
        its data set.

        With a `cache`, images that were asked about before cost only what is new since then: worth it where
        the same test images are evaluated after every experience. With a `false_alarm_rate` such as 0.05, images
        unlike all classes are marked, and about that share of the known ones.

        `unknown_rate` is the old name of `false_alarm_rate`. Raises InputError before anything was learned, or for
        images that cannot be used.
        """
        if unknown_rate is not None:
            warnings.warn("unknown_rate is now called false_alarm_rate", DeprecationWarning, stacklevel=2)
            false_alarm_rate = unknown_rate
        if not self.state.classes:
            raise InputError("nothing has been learned yet: call learn first")
        if false_alarm_rate is not None and not 0 < false_alarm_rate < 1:
            raise InputError(f"false_alarm_rate is a share of images above 0 and below 1, got {false_alarm_rate}")
        images = to_predict(images, channels := self.preprocessing.channels)
        if len(images) == 0:
            raise InputError("there are no images to predict: give at least one")
        paths, name = paths_of(images), range_of(images, value_range, self.state.value_range, channels)
        images = PreparedImages(images, [0] * len(images), self.preprocessing, augment=False, value_range=name)
        parts, done = [], 0
        for batch, _ in evaluation_loader(images, self.settings.eval_batch_size, num_workers=workers):
            parts.append(self.score_batch(batch, cache))
            done = min(done + distributed.count() * len(batch), len(images))
            if progress is not None:
                progress("predicting", done, len(images), {})
        found = Scores.joined(distributed.in_turn(parts)).prediction(self.state.classes, false_alarm_rate)
        threshold = (
            None if found.anomaly is None or false_alarm_rate is None else self.anomaly_threshold(false_alarm_rate)
        )
        return replace(found, paths=paths, anomaly_threshold=threshold)

    @property
    def tells_unusual(self) -> bool:
        """Whether a single class is known, and what is usual of it."""
        return False

    def anomaly_threshold(self, false_alarm_rate: float) -> float | None:
        """Return the anomaly above which an image is unknown, of a method whose scores have one; maybe infinite."""
        return None

    def score_batch(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        """Score one prepared batch (B, 3, H, W), without gradients: the one door to every answer, on the CPU.

        `predict`, Avalanche's evaluation, the server and exported graphs all ask here.
        """
        with torch.no_grad():
            return self.answer(images.to(self.device), cache).cpu()

    def answer(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        """Score one prepared batch on the learner's device, all views of it where a symmetry averages scores."""
        asked, symmetry = self.edited, self.symmetry
        # What is kept are features of the backbone as it was.
        cache = cache if asked is self else None
        if symmetry is None or not symmetry.averages_scores:
            return asked._scores(images, cache)
        return Scores.averaged([asked._scores(view, cache) for view in symmetry.orbit(images).unbind(1)])

    def scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        """Deprecated: `score_batch`."""
        warnings.warn("scores is deprecated: call score_batch", DeprecationWarning, stacklevel=2)
        return self.score_batch(images, cache)

    def evaluate(
        self, images: Any, labels: Any = None, *, workers: int = 0, value_range: ValueRange | None = None
    ) -> float:
        """Return the share of images answered right; raises InputError for a class never learned."""
        data = self._given(images, labels, value_range)
        truth = self.indices(data.labels)
        answers = self.predict(data.evaluation, workers=workers).labels
        return float((self.indices(answers) == truth).float().mean())
