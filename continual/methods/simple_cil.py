"""SimpleCIL: cosine to the class means of the frozen features; nothing is trained."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from continual.data.inputs import ExperienceData
from continual.learning.answers import Scores
from continual.learning.feature_cache import FeatureCache
from continual.learning.learner import IncrementalLearner
from continual.learning.state import JointClasses, State, learned
from continual.learning.training import Progress, Training
from continual.statistics.fields import placed
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

    def joined(self, states: Sequence[PrototypeState], joint: JointClasses) -> PrototypeState:
        known = [learned(state.prototypes) for state in states]
        parts = [placed(one, at, len(joint.classes)) for one, at in zip(known, joint.places, strict=True)]
        count = torch.stack([part.count for part in parts])
        total = (torch.stack([part.mean for part in parts]).double() * count[..., None]).sum(0)
        mean = (total / count.sum(0)[:, None]).to(known[0].mean)
        return PrototypeState(**joint.counts(), fitted=states[0].fitted, prototypes=Prototypes(mean, count.sum(0)))

    def _scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        cosines = cosine_scores(self.extractor.frozen_features(images, cache), learned(self.state.prototypes).mean)
        return Scores(cosines.softmax(-1), similarity=cosines)
