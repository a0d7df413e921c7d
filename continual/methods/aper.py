"""APER: prototypes of the frozen features beside those adapted to the first experience."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from continual.adapters.base import Weights
from continual.data.inputs import ExperienceData
from continual.learning.answers import Scores
from continual.learning.extractor import Extractor, Progress
from continual.learning.feature_cache import FeatureCache
from continual.learning.porting import Space
from continual.learning.settings import AdapterSettings
from continual.learning.state import JointClasses, learned
from continual.methods.bases.first_adapter import (
    FirstAdapterLearner,
    FirstAdapterSettings,
    FirstAdapterState,
    FirstAdapterTraining,
    adapted_features,
)
from continual.methods.bases.tempered import TemperedState, temperature_after
from continual.statistics.head import Prototypes, cosine_scores, joined_prototypes, updated
from continual.uncertainty.left_out import cosines_left_out
from continual.uncertainty.temperature import joined


@dataclass(frozen=True)
class APERState(FirstAdapterState, TemperedState):
    """The adapter, and class means of both features side by side."""

    prototypes: Prototypes | None = None  #: (C, 2 D)


def both(
    extractor: Extractor, settings: AdapterSettings, stack: Weights, images: Tensor, cache: FeatureCache | None = None
) -> Tensor:
    """Return `[phi(x), phi(x; A_1)]` (B, 2 D)."""
    frozen = extractor.frozen_features(images, cache)
    return torch.cat([frozen, adapted_features(extractor, settings, stack, images, cache)], dim=1)


class APERTraining(FirstAdapterTraining[APERState]):
    """Adds an experience's images to the class means."""

    def finish(self, progress: Progress | None = None) -> APERState:
        stack = self.frozen_adapter()
        features, targets = self.features(lambda images: both(self.extractor, self.settings, stack, images), progress)
        prototypes = updated(self.before.prototypes, features, targets, len(self.classes))
        known = temperature_after(self, *cosines_left_out(features, targets, prototypes, self.copies))
        return APERState(**self.progress_counts(), stack=stack, prototypes=prototypes, temperature=known)


class APERLearner(FirstAdapterLearner[APERState]):
    """Cosine to class means of `[phi(x), phi(x; A_1)]`; one adapter, trained on the first experience.

    Memory is one adapter, L (2 r D + r + D) numbers, and 2 D + 1 numbers per class.
    """

    method = "aper"
    paper = "Zhou et al., IJCV 2024, arXiv 2303.07338"
    summary = "APER with its adapter: prototypes of frozen and first-experience features, side by side"
    settings_type = FirstAdapterSettings
    state_type = APERState
    fixed_features = True
    unportable = None

    def begin(self, data: ExperienceData) -> APERTraining:
        return APERTraining(self.start, data)

    @property
    def adapted(self) -> bool:
        return True

    def remembered_features(self, extractor: Extractor, images: Tensor) -> Sequence[Tensor]:
        return both(extractor, self.settings, learned(self.state.stack), images).chunk(2, 1)

    def ported(self, target: Self, spaces: Sequence[Space], keep_answers: float) -> APERState:
        """Map both halves of the prototypes, each by its own map."""
        known = learned(target.state.prototypes)
        halves = zip(spaces, known.mean.chunk(2, -1), strict=True)
        mean = torch.cat([space.map.points(half) for space, half in halves], -1)
        return replace(target.state, prototypes=replace(known, mean=mean))

    def joined(self, states: Sequence[APERState], joint: JointClasses) -> APERState:
        prototypes = joined_prototypes([learned(state.prototypes) for state in states], joint.places)
        known = joined([state.temperature for state in states])
        return replace(states[0], **joint.common(states), prototypes=prototypes, temperature=known)

    def _scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        features = both(self.extractor, self.settings, learned(self.state.stack), images, cache)
        cosines = cosine_scores(features, learned(self.state.prototypes).mean)
        return Scores(cosines.softmax(-1), probabilities=self.state.probabilities(cosines), similarity=cosines)
