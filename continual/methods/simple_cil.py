"""SimpleCIL: cosine to the class means of the frozen features; nothing is trained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from continual.data.inputs import ExperienceData
from continual.learning.feature_cache import FeatureCache
from continual.learning.learner import IncrementalLearner
from continual.learning.state import Scores, State, replace_state, without_row
from continual.learning.training import Progress, Training
from continual.statistics.prototypes import cosine_scores, updated_means


@dataclass(frozen=True)
class PrototypeState(State):
    """Class means of the frozen backbone's features."""

    prototypes: Tensor | None = None  #: (C, D)
    counts: Tensor | None = None  #: (C,) int64

    def own_without(self, index: int) -> dict[str, Any]:
        """Leave out the class mean."""
        assert self.prototypes is not None
        assert self.counts is not None
        return {"prototypes": without_row(self.prototypes, index), "counts": without_row(self.counts, index)}


class PrototypeUpdate(Training[PrototypeState]):
    """Adds an experience's images to the class means."""

    def finish(self, progress: Progress | None = None) -> PrototypeState:
        learner, before = self.learner, self.before
        (features,), targets = self.extract(lambda images, _: [learner.features(images)], progress)
        prototypes, counts = updated_means(before.prototypes, before.counts, features, targets, len(self.classes))
        return PrototypeState(**self.progress_counts(), prototypes=prototypes, counts=counts)


class SimpleCILLearner(IncrementalLearner[PrototypeState]):
    """Prototypes of the frozen features. Memory grows by D numbers and a count a class."""

    method = "simple_cil"
    paper = "Zhou et al., IJCV 2024, arXiv 2303.07338"
    summary = "cosine to class means of the frozen features; trains nothing"
    any_backbone = True
    state_type = PrototypeState
    probabilities = False
    fixed_features = True

    def begin(self, data: ExperienceData) -> PrototypeUpdate:
        return PrototypeUpdate(self, data)

    def scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        """Return the softmax of the cosines."""
        assert self.state.prototypes is not None
        cosines = cosine_scores(self.frozen_features(images, cache), self.state.prototypes)
        return Scores(cosines.softmax(-1), similarity=cosines)

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        if self.state.prototypes is None or self.state.counts is None:
            return {}, {}
        return {"prototypes/mean": self.state.prototypes, "prototypes/count": self.state.counts}, {}

    def unpack(self, common: State, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> PrototypeState:
        if not common.classes:
            return replace_state(common, PrototypeState)
        own = {"prototypes": tensors["prototypes/mean"], "counts": tensors["prototypes/count"]}
        return replace_state(common, PrototypeState, **own)
