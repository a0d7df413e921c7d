"""RanPAC: ridge regression on a random projection of features adapted to the first experience."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from continual import artefact
from continual.data import ExperienceData
from continual.feature_cache import FeatureCache
from continual.first_stack import FirstStackLearner, FirstStackSettings, FirstStackState, FirstStackTraining
from continual.regression import RegressionState, unpack_sums
from continual.ridge import Sums, choose_strength, solve
from continual.seeding import generator
from continual.state import Scores, State, replace_state
from continual.training import Progress


class RanPACSettings(FirstStackSettings):
    """Numbers of RanPAC."""

    projection: int = Field(10_000, ge=1, description="M, the width of the random projection")


@dataclass(frozen=True)
class RanPACState(FirstStackState, RegressionState):
    """The stack, running sums of the projected features, and the map solved from them."""


class RanPACTraining(FirstStackTraining[RanPACState]):
    """Adds an experience's images to the sums and solves anew."""

    def finish(self, progress: Progress | None = None) -> RanPACState:
        learner, stack, before, classes = self.learner, self.frozen_stack(), self.before, len(self.classes)
        assert isinstance(learner, RanPACLearner)
        features, labels = self.collect(lambda images: learner.adapted_features(images, stack), progress)
        hidden = learner.project(features)
        draw = generator(learner.settings.seed, "ridge", before.updates)
        # As published, earlier experiences take no part in the choice.
        strength = choose_strength(None, hidden, labels, classes, standardise=False, generator=draw)
        sums = Sums.of(hidden, labels, classes)
        sums = sums if before.sums is None else sums.plus(before.sums)
        readout = solve(sums, strength, standardise=False)
        return RanPACState(**self.progress_counts(), stack=stack, sums=sums, readout=readout)


class RanPACLearner(FirstStackLearner[RanPACState]):
    """`argmax h W_o` with `h = relu(z W)`, W a fixed random D x M matrix and W_o solved in closed form.

    The strength is the one of least squared error on a fifth of the newest experience, drawn at random, when solved
    on its other four fifths, as in the published code. W is drawn from the seed, not stored. Memory is one
    stack, L (2 r D + r + D) numbers, and in double precision M (M + 3) / 2, and 2 M + 2 a class.
    """

    method = "ranpac"
    paper = "McDonnell et al., NeurIPS 2023, arXiv 2307.02251"
    summary = "ridge regression on a random projection of first-experience features"
    settings_type = RanPACSettings
    probabilities = False
    fixed_features = True
    state_type = RanPACState
    settings: RanPACSettings

    def begin(self, data: ExperienceData) -> RanPACTraining:
        return RanPACTraining(self, data)

    @cached_property
    def projection(self) -> Tensor:
        """W (D, M), entries from N(0, 1)."""
        draw = generator(self.settings.seed, "projection")
        return torch.randn(self.backbone.width, self.settings.projection, generator=draw)

    def project(self, features: Tensor) -> Tensor:
        """Return `relu(z W)` (B, M) of features z (B, D)."""
        return torch.relu(features @ self.projection.to(features))

    def scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        """Return the softmax of the regression's values."""
        assert self.state.stack is not None
        assert self.state.readout is not None
        features = self.adapted_features(images, self.state.stack, cache)
        return Scores(self.state.readout(self.project(features)).softmax(-1))

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        state = self.state
        return (artefact.join("stack", state.stack) | state.pack_sums() if state.stack is not None else {}), {}

    def unpack(self, common: State, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> RanPACState:
        if not common.classes:
            return replace_state(common, RanPACState)
        return replace_state(common, RanPACState, stack=artefact.part(tensors, "stack"), **unpack_sums(tensors))
