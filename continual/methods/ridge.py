"""Ridge regression on the frozen features, in closed form: a second's work, and hard to beat."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from continual import artefact
from continual.data import ExperienceData
from continual.feature_cache import FeatureCache
from continual.learner import IncrementalLearner
from continual.ridge import Readout, Sums, choose_strength, solve
from continual.seeding import generator
from continual.state import Scores, State, replace_state
from continual.training import Progress, Training


@dataclass(frozen=True)
class RidgeState(State):
    """Running sums of the frozen features, and the map solved from them."""

    sums: Sums | None = None
    readout: Readout | None = None

    def own_without(self, index: int) -> dict[str, Any]:
        """Leave out the class's score and its part of the sums, see `Sums.without`; the others' scores stay."""
        assert self.sums is not None
        assert self.readout is not None
        return {"sums": self.sums.without(index), "readout": self.readout.without(index)}


class RidgeUpdate(Training[RidgeState]):
    """Adds an experience's images to the sums and solves anew."""

    def finish(self, progress: Progress | None = None) -> RidgeState:
        learner, before = self.learner, self.before.sums
        (features,), labels = self.extract(lambda images, _: [learner.features(images)], progress)
        draw = generator(learner.settings.seed, "ridge", self.before.updates)
        classes = len(self.classes)
        strength = choose_strength(before, features, labels, classes, standardise=True, generator=draw)
        sums = Sums.of(features, labels, classes)
        sums = sums if before is None else sums.plus(before)
        return RidgeState(**self.progress_counts(), sums=sums, readout=solve(sums, strength, standardise=True))


class RidgeLearner(IncrementalLearner[RidgeState]):
    """Ridge regression on standardised frozen features, from running sums.

    RanPAC without its adapters and projection. The strength is the one of least squared error on a fifth of the newest
    experience, drawn at random, when solved on the rest of it and everything before. Memory is D^2 + D numbers, and
    2 D + 2 a class, in double precision.
    """

    method = "ridge"
    paper = "Hoerl and Kennard, Technometrics 1970"
    summary = "ridge regression on the frozen features, in closed form from running sums"
    state_type = RidgeState
    probabilities = False

    def begin(self, data: ExperienceData) -> RidgeUpdate:
        return RidgeUpdate(self, data)

    def scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        """Return the softmax of the regression's values."""
        assert self.state.readout is not None
        return Scores(self.state.readout(self.frozen_features(images, cache)).softmax(-1))

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        if self.state.sums is None or self.state.readout is None:
            return {}, {}
        readout = artefact.join("readout", vars(self.state.readout))
        return artefact.join("sums", self.state.sums.tensors()) | readout, {}

    def unpack(self, common: State, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> RidgeState:
        if not common.classes:
            return replace_state(common, RidgeState)
        sums = Sums(**artefact.part(tensors, "sums"))
        return replace_state(common, RidgeState, sums=sums, readout=Readout(**artefact.part(tensors, "readout")))
