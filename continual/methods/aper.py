"""APER: prototypes of the frozen features beside those adapted to the first experience."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from continual.adapters.bottleneck import StackWeights
from continual.data.inputs import ExperienceData
from continual.learning import model_file
from continual.learning.feature_cache import FeatureCache
from continual.learning.state import Scores, State, replace_state, without_row
from continual.learning.training import Progress
from continual.methods.bases.first_adapter import FirstStackLearner, FirstStackState, FirstStackTraining
from continual.statistics.prototypes import cosine_scores, updated_means


@dataclass(frozen=True)
class APERState(FirstStackState):
    """The stack, and class means of both features side by side."""

    prototypes: Tensor | None = None  #: (C, 2 D)
    counts: Tensor | None = None  #: (C,) int64

    def own_without(self, index: int) -> dict[str, Any]:
        """Leave out the class mean."""
        assert self.prototypes is not None
        assert self.counts is not None
        return {"prototypes": without_row(self.prototypes, index), "counts": without_row(self.counts, index)}


class APERTraining(FirstStackTraining[APERState]):
    """Adds an experience's images to the class means."""

    def finish(self, progress: Progress | None = None) -> APERState:
        learner, stack = self.learner, self.frozen_stack()
        assert isinstance(learner, APERLearner)
        (features,), targets = self.extract(lambda images, _: [learner.both(images, stack)], progress)
        before = self.before
        prototypes, counts = updated_means(before.prototypes, before.counts, features, targets, len(self.classes))
        return APERState(**self.progress_counts(), stack=stack, prototypes=prototypes, counts=counts)


class APERLearner(FirstStackLearner[APERState]):
    """Cosine to class means of `[phi(x), phi(x; A_1)]`; one stack, trained on the first experience.

    Memory is one stack, L (2 r D + r + D) numbers, and 2 D + 1 numbers a class.
    """

    method = "aper"
    paper = "Zhou et al., IJCV 2024, arXiv 2303.07338"
    summary = "APER with its adapter: prototypes of frozen and first-experience features, side by side"
    state_type = APERState
    probabilities = False
    fixed_features = True

    def begin(self, data: ExperienceData) -> APERTraining:
        return APERTraining(self, data)

    def both(self, images: Tensor, stack: StackWeights, cache: FeatureCache | None = None) -> Tensor:
        """Return `[phi(x), phi(x; A_1)]` (B, 2 D)."""
        return torch.cat([self.frozen_features(images, cache), self.adapted_features(images, stack, cache)], dim=1)

    def scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        """Return the softmax of the cosines."""
        assert self.state.stack is not None
        assert self.state.prototypes is not None
        cosines = cosine_scores(self.both(images, self.state.stack, cache), self.state.prototypes)
        return Scores(cosines.softmax(-1), similarity=cosines)

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        state = self.state
        if state.stack is None or state.prototypes is None or state.counts is None:
            return {}, {}
        prototypes = {"prototypes/mean": state.prototypes, "prototypes/count": state.counts}
        return model_file.join("stack", state.stack) | prototypes, {}

    def unpack(self, common: State, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> APERState:
        if not common.classes:
            return replace_state(common, APERState)
        return replace_state(
            common,
            APERState,
            stack=model_file.part(tensors, "stack"),
            prototypes=tensors["prototypes/mean"],
            counts=tensors["prototypes/count"],
        )
