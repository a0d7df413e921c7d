"""SimpleCIL: cosine to the class means of the frozen features; nothing is trained."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from torch import Tensor

from continual.data.inputs import ExperienceData
from continual.learning.answers import Scores
from continual.learning.extractor import Extractor
from continual.learning.feature_cache import FeatureCache
from continual.learning.learner import IncrementalLearner
from continual.learning.porting import Space
from continual.learning.state import JointClasses, learned
from continual.learning.training import Progress, Training
from continual.methods.bases.tempered import TemperedState, temperature_after
from continual.statistics.head import Prototypes, cosine_scores, joined_prototypes, updated
from continual.uncertainty.left_out import cosines_left_out
from continual.uncertainty.temperature import joined


@dataclass(frozen=True)
class PrototypeState(TemperedState):
    """Class means of the frozen backbone's features."""

    prototypes: Prototypes | None = None  #: (C, D)


class PrototypeUpdate(Training[PrototypeState]):
    """Adds an experience's images to the class means."""

    def finish(self, progress: Progress | None = None) -> PrototypeState:
        features, targets = self.features(self.extractor.features, progress)
        prototypes = updated(self.before.prototypes, features, targets, len(self.classes))
        known = temperature_after(self, *cosines_left_out(features, targets, prototypes, self.copies))
        return PrototypeState(**self.progress_counts(), prototypes=prototypes, temperature=known)


class SimpleCILLearner(IncrementalLearner[PrototypeState]):
    """Prototypes of the frozen features. Memory is 163 numbers, and grows by D numbers and a count per class."""

    method = "simple_cil"
    paper = "Zhou et al., IJCV 2024, arXiv 2303.07338"
    summary = "cosine to class means of the frozen features; trains nothing"
    any_backbone = True
    state_type = PrototypeState
    unportable = None
    unmergeable = None
    fixed_features = True

    def begin(self, data: ExperienceData) -> PrototypeUpdate:
        return PrototypeUpdate(self.start, data)

    def remembered_features(self, extractor: Extractor, images: Tensor) -> Sequence[Tensor]:
        return [extractor.features(images)]

    def ported(self, target: Self, spaces: Sequence[Space], keep_answers: float) -> PrototypeState:
        return replace(target.state, prototypes=spaces[0].map.prototypes(learned(target.state.prototypes)))

    def joined(self, states: Sequence[PrototypeState], joint: JointClasses) -> PrototypeState:
        prototypes = joined_prototypes([learned(state.prototypes) for state in states], joint.places)
        temperature = joined([state.temperature for state in states])
        return PrototypeState(**joint.common(states), prototypes=prototypes, temperature=temperature)

    def _scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        cosines = cosine_scores(self.extractor.frozen_features(images, cache), learned(self.state.prototypes).mean)
        return Scores(cosines.softmax(-1), probabilities=self.state.probabilities(cosines), similarity=cosines)
