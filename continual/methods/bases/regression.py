"""Methods that answer by ridge regression from running sums: their state, and those on features that never change."""

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Self

import torch
from torch import Tensor

from continual.data.inputs import ExperienceData
from continual.learning.answers import Scores
from continual.learning.extractor import Extractor, Progress
from continual.learning.feature_cache import FeatureCache
from continual.learning.learner import IncrementalLearner
from continual.learning.state import Simulation, State, learned
from continual.learning.training import Start, Training
from continual.seeding import generator
from continual.statistics.head import cosine_scores
from continual.statistics.ridge import GramStatistics, LinearHead, Standardised
from continual.uncertainty.leverage import Certainty, certainty, drawing


@dataclass(frozen=True)
class RegressionState(State):
    """Running sums of the features, the head solved from them, and how sure it may be.

    A class that is forgotten leaves the others' scores as they are; see `GramStatistics.without` for its sums.
    """

    sums: GramStatistics | None = None
    head: LinearHead | None = None
    certainty: Certainty | None = None  #: None for methods, and in files, that do not have it

    @cached_property
    def prototypes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (D',) and deviation (D',) of all features, and the classes' means of standardised ones (C, D')."""
        sums = learned(self.sums)
        mean, deviation = sums.moments()
        centres = (sums.targets / sums.counts - mean[:, None]) / deviation[:, None]
        return mean.float(), deviation.float(), centres.mT.float().contiguous()


class RegressionUpdate(Training[RegressionState]):
    """Adds an experience's images to the sums and solves anew.

    `read(extractor, images)` gives the features (B, D') of prepared images, `penalty` that of a regression on sums.
    """

    def __init__(
        self,
        start: Start[RegressionState],
        data: ExperienceData,
        read: Callable[[Extractor, Tensor], Tensor],
        penalty: Callable[[GramStatistics], float],
    ) -> None:
        super().__init__(start, data)
        self.read, self.penalty = read, penalty

    def finish(self, progress: Progress | None = None) -> RegressionState:
        before = self.before
        features, labels = self.features(partial(self.read, self.extractor), progress)
        sums = GramStatistics.of(features, labels, len(self.classes)).plus(before.sums)
        system = Standardised.of(sums, self.penalty(sums))
        head = system.solve(sums)
        # Images that were answered wrong say nothing of what is usual.
        newest = None if self.correcting else (features, labels)
        draw = generator(self.settings.seed, "sketch")
        certain = certainty(sums, system, head, newest, before.certainty, draw)
        return RegressionState(**self.progress_counts(), sums=sums, head=head, certainty=certain)


class RegressionLearner(IncrementalLearner[RegressionState]):
    """Ridge regression on standardised features that a method defines; D' numbers per image.

    Memory is D' (D' + 3) / 2 numbers, and 2 D' + 2 per class, in double precision, and for probabilities and unknown
    images 256 (D' + 1) in single (D' if that is fewer than 256) and 1,189.
    """

    state_type = RegressionState
    probabilities = False
    fixed_features = True

    @abstractmethod
    def design_features(self, extractor: Extractor, images: Tensor, cache: FeatureCache | None = None) -> Tensor:
        """Return the features (B, D') of prepared images that are regressed on, from `cache` where it has them."""

    @abstractmethod
    def penalty(self, sums: GramStatistics) -> float:
        """Return the penalty on the squares of the weights."""

    def begin(self, data: ExperienceData) -> RegressionUpdate:
        return RegressionUpdate(self.start, data, self.design_features, self.penalty)

    def _scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        """Return the softmax of the regression's values, which only ranks, and what they are worth.

        The similarity is that of standardised features to the classes' means.
        """
        features, certain = self.design_features(self.extractor, images, cache), self.state.certainty
        values = learned(self.state.head)(features)
        probabilities, p_value = (None, None) if certain is None else certain.judge(values, features)
        mean, deviation, centres = self.state.prototypes
        similarity = cosine_scores((features - mean) / deviation, centres)
        return Scores(values.softmax(-1), probabilities=probabilities, p_value=p_value, similarity=similarity)

    def simulation(self, after: Self) -> Simulation | None:
        """Draw values from the sums, as of images that were left out: see `drawing`."""
        sums = self.state.sums
        if sums is None or self.symmetry is not None:
            return None
        maps = []
        for state in (self.state, after.state):
            if state.head is None or state.certainty is None:
                return None
            maps.append((state.head, state.certainty.mean_leverage(sums)))
        values = drawing(sums, maps)

        def answers(index: int, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
            was, now = values(index, count, draw)
            return was.argmax(-1), now.argmax(-1)

        return answers
