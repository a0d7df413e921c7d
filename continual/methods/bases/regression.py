"""Methods that answer by ridge regression from running sums: their state, and those on features that never change."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self

import torch
from torch import Tensor

from continual.data.inputs import ExperienceData
from continual.learning import model_file
from continual.learning.feature_cache import FeatureCache
from continual.learning.learner import IncrementalLearner
from continual.learning.state import Imagining, Scores, State, replace_state
from continual.learning.training import Progress, Training
from continual.seeding import generator
from continual.statistics.prototypes import cosine_scores
from continual.statistics.ridge import Readout, Standardised, Sums
from continual.uncertainty.leverage import Certainty, certainty
from continual.uncertainty.simulation import drawing


@dataclass(frozen=True)
class RegressionState(State):
    """Running sums of the features, the map solved from them, and how sure it may be."""

    sums: Sums | None = None
    readout: Readout | None = None
    certainty: Certainty | None = None  #: None for methods, and in files, that do not have it

    @cached_property
    def prototypes(self) -> tuple[Tensor, Tensor, Tensor]:
        """Mean (D',) and deviation (D',) of all features, and the classes' means of standardised ones (C, D')."""
        assert self.sums is not None
        mean, deviation = self.sums.moments()
        centres = (self.sums.targets / self.sums.counts - mean[:, None]) / deviation[:, None]
        return mean.float(), deviation.float(), centres.mT.float().contiguous()

    def own_without(self, index: int) -> dict[str, Any]:
        """Leave out the class's score and its part of the sums, see `Sums.without`; the others' scores stay."""
        assert self.sums is not None
        assert self.readout is not None
        return {"sums": self.sums.without(index), "readout": self.readout.without(index)}

    def pack_sums(self) -> dict[str, Tensor]:
        """Return sums and map as tensors for a file, see `unpack_sums`; none before anything is learned."""
        if self.sums is None or self.readout is None:
            return {}
        tensors = model_file.join("sums", self.sums.tensors()) | model_file.join("readout", vars(self.readout))
        return tensors | model_file.join("certainty", {} if self.certainty is None else self.certainty.tensors())


def unpack_sums(tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """Return the state's fields that `pack_sums` took apart."""
    certain = model_file.part(tensors, "certainty")
    return {
        "sums": Sums.restore(model_file.part(tensors, "sums")),
        "readout": Readout(**model_file.part(tensors, "readout")),
        "certainty": Certainty.restore(certain) if certain else None,
    }


class RegressionUpdate(Training[RegressionState]):
    """Adds an experience's images to the sums and solves anew."""

    def finish(self, progress: Progress | None = None) -> RegressionState:
        learner, before = self.learner, self.before
        assert isinstance(learner, RegressionLearner)
        (features,), labels = self.extract(lambda images, _: [learner.regressors(images)], progress)
        sums = Sums.of(features, labels, len(self.classes))
        sums = sums if before.sums is None else sums.plus(before.sums)
        system = Standardised.of(sums, learner.strength(sums))
        readout = system.solve(sums)
        # Images that were answered wrong say nothing of what is usual.
        newest = None if self.correcting else (features, labels)
        draw = generator(learner.settings.seed, "sketch")
        certain = certainty(sums, system, readout, newest, before.certainty, draw)
        return RegressionState(**self.progress_counts(), sums=sums, readout=readout, certainty=certain)


class RegressionLearner(IncrementalLearner[RegressionState]):
    """Ridge regression on standardised features that a method defines; D' numbers an image.

    Memory is D' (D' + 3) / 2 numbers, and 2 D' + 2 a class, in double precision, and for probabilities and unknown
    images 256 (D' + 1) in single (D' if that is fewer than 256) and 1,189.
    """

    state_type = RegressionState
    probabilities = False
    fixed_features = True

    @abstractmethod
    def regressors(self, images: Tensor, cache: FeatureCache | None = None) -> Tensor:
        """Return the features (B, D') of prepared images, from `cache` where it has them."""

    @abstractmethod
    def strength(self, sums: Sums) -> float:
        """Return how strongly the weights are held back."""

    def begin(self, data: ExperienceData) -> RegressionUpdate:
        return RegressionUpdate(self, data)

    def scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        """Return the softmax of the regression's values, which only ranks, and what they are worth.

        The similarity is that of standardised features to the classes' means.
        """
        assert self.state.readout is not None
        features, certain = self.regressors(images, cache), self.state.certainty
        values = self.state.readout(features)
        probabilities, familiarity = (None, None) if certain is None else certain.judge(values, features)
        mean, deviation, centres = self.state.prototypes
        return Scores(
            values.softmax(-1),
            probabilities=probabilities,
            familiarity=familiarity,
            similarity=cosine_scores((features - mean) / deviation, centres),
        )

    def imagining(self, after: Self) -> Imagining | None:
        """Draw values from the sums, as of images that were left out: see `continual.uncertainty.simulation`."""
        sums = self.state.sums
        if sums is None or self.symmetry is not None:
            return None
        maps = []
        for state in (self.state, after.state):
            if state.readout is None or state.certainty is None:
                return None
            maps.append((state.readout, state.certainty.mean_leverage(sums)))
        values = drawing(sums, maps)

        def answers(index: int, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
            was, now = values(index, count, draw)
            return was.argmax(-1), now.argmax(-1)

        return answers

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return self.state.pack_sums(), {}

    def unpack(self, common: State, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> RegressionState:
        return replace_state(common, RegressionState, **(unpack_sums(tensors) if common.classes else {}))
