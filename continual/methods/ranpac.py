"""RanPAC: ridge regression on a random projection of features adapted to the first experience."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from continual.adapters.bottleneck import StackWeights
from continual.backbones.loading import Backbone
from continual.data.inputs import ExperienceData
from continual.learning import model_file
from continual.learning.feature_cache import FeatureCache
from continual.learning.state import Scores, State, replace_state
from continual.learning.training import Progress, Training
from continual.methods.bases.first_adapter import (
    FirstStackLearner,
    FirstStackSettings,
    FirstStackState,
    FirstStackTraining,
)
from continual.methods.bases.regression import RegressionState, unpack_sums
from continual.seeding import generator
from continual.statistics.ridge import Sums, choose_strength, solve


class RanPACSettings(FirstStackSettings):
    """Numbers of RanPAC."""

    projection: int = Field(10_000, ge=1, description="M, the width of the random projection")


@dataclass(frozen=True)
class RanPACState(FirstStackState, RegressionState):
    """The stack, running sums of the projected features, and the map solved from them."""


class RanPACTraining(FirstStackTraining[RanPACState]):
    """Adapts in the first experience, and adds an experience's images to the sums."""

    def finish(self, progress: Progress | None = None) -> RanPACState:
        return _solved(self, self.frozen_stack(), progress)


class RanPACUpdate(Training[RanPACState]):
    """Adds an experience's images to the sums, and adapts nothing."""

    def finish(self, progress: Progress | None = None) -> RanPACState:
        return _solved(self, self.before.stack or {}, progress)


def _solved(training: Training[RanPACState], stack: StackWeights, progress: Progress | None) -> RanPACState:
    """Return the state with the experience's images in the sums, and a map solved anew."""
    learner, before, classes = training.learner, training.before, len(training.classes)
    assert isinstance(learner, RanPACLearner)
    (features,), labels = training.extract(lambda images, _: [learner.adapted_features(images, stack)], progress)
    hidden = learner.project(features)
    draw = generator(learner.settings.seed, "ridge", before.updates)
    # As published, earlier experiences take no part in the choice.
    strength = choose_strength(None, hidden, labels, classes, standardise=False, generator=draw)
    sums = Sums.of(hidden, labels, classes)
    sums = sums if before.sums is None else sums.plus(before.sums)
    readout = solve(sums, strength, standardise=False)
    return RanPACState(**training.progress_counts(), stack=stack, sums=sums, readout=readout)


class RanPACLearner(FirstStackLearner[RanPACState]):
    """`argmax h W_o` with `h = relu(z W)`, W a fixed random D x M matrix and W_o solved in closed form.

    The strength is the one of least squared error on a fifth of the newest experience, drawn at random, when solved
    on its other four fifths, as in the published code. W is drawn from the seed, not stored. Memory is one
    stack, L (2 r D + r + D) numbers, and in double precision M (M + 3) / 2, and 2 M + 2 a class. With `epochs = 0` z
    are the frozen features, of any backbone, and there is no stack.
    """

    method = "ranpac"
    paper = "McDonnell et al., NeurIPS 2023, arXiv 2307.02251"
    summary = "ridge regression on a random projection of first-experience features; epochs=0: of the frozen ones"
    any_backbone = True
    settings_type = RanPACSettings
    probabilities = False
    fixed_features = True
    state_type = RanPACState
    settings: RanPACSettings

    def __init__(self, backbone: Backbone, **given: Any) -> None:
        super().__init__(backbone, **given)
        if self.settings.epochs:
            backbone.trunk.check_has_blocks("ranpac, unless epochs=0,")

    def begin(self, data: ExperienceData) -> Training[RanPACState]:
        adapts = self.settings.epochs and self.state.stack != {}  # what began without a stack goes on without
        return RanPACTraining(self, data) if adapts else RanPACUpdate(self, data)

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
        return (model_file.join("stack", state.stack) | state.pack_sums() if state.stack is not None else {}), {}

    def unpack(self, common: State, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> RanPACState:
        if not common.classes:
            return replace_state(common, RanPACState)
        return replace_state(common, RanPACState, stack=model_file.part(tensors, "stack"), **unpack_sums(tensors))
