"""SimpleCIL: cosine to the class means of the frozen features; nothing is trained."""

from dataclasses import dataclass

from torch import Tensor

from continual.data.inputs import ExperienceData
from continual.learning.answers import Scores
from continual.learning.feature_cache import FeatureCache
from continual.learning.learner import IncrementalLearner
from continual.learning.state import State, learned
from continual.learning.training import Progress, Training
from continual.statistics.head import Prototypes, cosine_scores, updated


@dataclass(frozen=True)
class PrototypeState(State):
    """Class means of the frozen backbone's features."""

    prototypes: Prototypes | None = None  #: (C, D)


class PrototypeUpdate(Training[PrototypeState]):
    """Adds an experience's images to the class means."""

    def finish(self, progress: Progress | None = None) -> PrototypeState:
        features, targets = self.features(self.extractor.features, progress)
        prototypes = updated(self.before.prototypes, features, targets, len(self.classes))
        return PrototypeState(**self.progress_counts(), prototypes=prototypes)


class SimpleCILLearner(IncrementalLearner[PrototypeState]):
    """Prototypes of the frozen features. Memory grows by D numbers and a count per class."""

    method = "simple_cil"
    paper = "Zhou et al., IJCV 2024, arXiv 2303.07338"
    summary = "cosine to class means of the frozen features; trains nothing"
    any_backbone = True
    state_type = PrototypeState
    probabilities = False
    fixed_features = True

    def begin(self, data: ExperienceData) -> PrototypeUpdate:
        return PrototypeUpdate(self.start, data)

    def _scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        cosines = cosine_scores(self.extractor.frozen_features(images, cache), learned(self.state.prototypes).mean)
        return Scores(cosines.softmax(-1), similarity=cosines)
