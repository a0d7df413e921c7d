"""RanPAC: ridge regression on a random projection of features adapted to the first experience."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from pydantic import Field
from torch import Tensor

from continual.adapters.base import Weights
from continual.data.inputs import ExperienceData
from continual.learning.answers import Scores
from continual.learning.extractor import Extractor
from continual.learning.feature_cache import FeatureCache
from continual.learning.state import JointClasses, learned
from continual.learning.training import Progress, Start, Training
from continual.learning.unlabelled import PseudoLabels, UnlabelledUse, not_known, self_taught, usual
from continual.methods.bases.first_adapter import (
    FirstAdapterLearner,
    FirstAdapterSettings,
    FirstAdapterState,
    FirstAdapterTraining,
    adapted_features,
)
from continual.methods.bases.regression import SolvingLearner
from continual.methods.bases.regression_update import RegressionSettings, RegressionState
from continual.methods.bases.tempered import TemperedState, temperature_after
from continual.seeding import generator
from continual.statistics.ignored import penalised
from continual.statistics.penalties import PENALTIES, choose_penalty, penalty_of
from continual.statistics.ridge import GramStatistics, plainly_solved
from continual.statistics.weighted import weighted_sums
from continual.uncertainty.left_out import Rows, values_left_out
from continual.uncertainty.temperature import joined


class RanPACSettings(FirstAdapterSettings, RegressionSettings):
    """Numbers of RanPAC."""

    balance: float = Field(0.0, ge=0, le=1, description="as published 0, classes weigh as often as learned; 1: alike")
    projection: int = Field(10_000, ge=1, description="M, the width of the random projection")


@dataclass(frozen=True)
class RanPACState(FirstAdapterState, RegressionState, TemperedState):
    """The adapter, running sums of the projected features, and the head solved from them."""


def solved(state: RanPACState, balance: float) -> tuple[RanPACState, Tensor]:
    """Return the state with the head of its sums and penalty, and L (M, M) by which it was solved."""
    sums = learned(state.sums)
    penalty = penalty_of(sums, learned(state.head)) if state.penalty is None else state.penalty
    weighted = sums.balanced(balance)
    rows = penalised(state.ignored, float(weighted.counts.sum()))
    for strength in (penalty, *(p for p in PENALTIES if p > penalty)):
        head, lower = plainly_solved(weighted, strength, rows)
        if head.weight.isfinite().all():  # a penalty chosen for other sums may be too weak for these
            break
    return replace(state, head=head, balance=balance, penalty=penalty), lower


class RanPACUpdate(Training[RanPACState]):
    """Adds an experience's images to the sums, and adapts nothing."""

    def __init__(self, start: Start[RanPACState], data: ExperienceData, project: Callable[[Tensor], Tensor]) -> None:
        super().__init__(start, data)
        self.project = project

    def finish(self, progress: Progress | None = None) -> RanPACState:
        """Return the state with the experience's images in the sums, and a head solved for it."""
        own, classes, stack = self.settings, len(self.classes), self.frozen_adapter()
        newest, draw = list[GramStatistics](), generator(own.seed, "ridge", self.before.updates)

        def fold(found: list[Tensor], labels: Tensor) -> list[Tensor]:
            hidden = self.project(found[0])
            more = GramStatistics.of(hidden, labels, classes, own.exact_forget)
            newest[:] = [more.plus(newest[0]) if newest else more]
            return [hidden]

        held = self.streamed(
            lambda x, _: [adapted_features(self.extractor, own, stack, x)], fold, progress, width=own.projection
        )
        (hidden,), labels, stands_for = held
        # As published, earlier experiences take no part in the choice.
        others = None if stands_for == 1 else newest[0].minus(GramStatistics.of(hidden, labels, classes))
        penalty = choose_penalty(
            others, hidden, labels, classes, standardise=False, generator=draw, balance=own.balance
        )
        sums = newest[0].plus(self.before.sums)
        state = RanPACState(**self.progress_counts(), stack=stack, sums=sums, penalty=penalty)

        def solve(pseudo: PseudoLabels | None) -> tuple[RanPACState, Tensor]:
            more = sums
            if pseudo is not None:
                more = weighted_sums(unseen, pseudo.labels, pseudo.weights, classes, own.exact_forget).plus(sums)
            done, lower = solved(replace(state, sums=more), own.balance)
            rows = Rows(hidden, labels, self.copies).several(more)
            weights = more.image_weights(own.balance)[rows.labels]
            left_out = values_left_out(rows, weights, lower, learned(done.head))
            values, truth, each = left_out
            known = temperature_after(self, values, truth, each * stands_for)
            return replace(done, temperature=known), values.amax(-1)

        def answer(found: tuple[RanPACState, Tensor]) -> PseudoLabels:
            values = learned(found[0].head)(unseen)
            probabilities = found[0].probabilities(values)
            if probabilities is None or not len(found[1]):
                raise not_known("ranpac")
            return PseudoLabels.of(probabilities, usual(found[1], values.amax(-1)))

        if self.data.unlabelled is None:
            return solve(None)[0]
        unseen = self.project(self.unlabelled(lambda x: [adapted_features(self.extractor, own, stack, x)], progress)[0])
        (state, _), pseudo = self_taught(solve, answer)
        self.unlabelled_use = UnlabelledUse.of(pseudo, self.classes)
        return state

    @property
    def taught(self) -> bool:
        """The sums alone learn unlabelled images."""
        return False

    def frozen_adapter(self) -> Weights:
        """Return the first experience's adapter; without any, none."""
        return self.before.stack or {}


class RanPACTraining(RanPACUpdate, FirstAdapterTraining[RanPACState]):
    """Adapts in the first experience as well."""

    frozen_adapter = FirstAdapterTraining.frozen_adapter


class RanPACLearner(FirstAdapterLearner[RanPACState], SolvingLearner[RanPACState]):
    """`argmax h W_o` with `h = relu(z W)`, W a fixed random D x M matrix and W_o solved in closed form.

    The penalty is the one of least squared error on a fifth of the newest experience, drawn at random, when solved
    on its other four fifths, as in the published code. W is drawn from the seed, not stored. Memory is one
    adapter, L (2 r D + r + D) numbers, and in double precision M (M + 3) / 2, and 2 M + 2 per class, with
    `exact_forget` = k another k M. With `epochs = 0` z are the frozen features, of any backbone, and there is
    no adapter.
    """

    method = "ranpac"
    paper = "McDonnell et al., NeurIPS 2023, arXiv 2307.02251"
    summary = "ridge regression on a random projection of first-experience features; epochs=0: of the frozen ones"
    any_backbone = True
    settings_type = RanPACSettings
    fixed_features = True
    learns_unlabelled = True
    state_type = RanPACState
    settings: RanPACSettings

    def check(self) -> None:
        if self.settings.epochs:
            self.backbone.frozen.check_has_blocks("ranpac, unless epochs=0,")

    def begin(self, data: ExperienceData) -> Training[RanPACState]:
        adapts = self.settings.epochs and self.state.stack != {}  # what began without an adapter continues without
        return (RanPACTraining if adapts else RanPACUpdate)(self.start, data, self.project)

    def joined(self, states: Sequence[RanPACState], joint: JointClasses) -> RanPACState:
        """Add the sums up, under the penalty of the model that has seen most."""
        most = max(states, key=lambda state: float(learned(state.sums).counts.sum()))
        penalty = penalty_of(learned(most.sums), learned(most.head)) if most.penalty is None else most.penalty
        known = joined([state.temperature for state in states])
        return super().joined([replace(states[0], penalty=penalty, temperature=known), *states[1:]], joint)

    @property
    def adapted(self) -> bool:
        return bool(self.state.stack)

    def remembered_features(self, extractor: Extractor, images: Tensor) -> Sequence[Tensor]:
        return [self.project(adapted_features(extractor, self.settings, self.state.stack or {}, images))]

    def solved(self, state: RanPACState, newest: Rows | None = None) -> RanPACState:
        return solved(state, self.settings.balance)[0]

    @cached_property
    def projection(self) -> Tensor:
        """W (D, M), entries from N(0, 1)."""
        draw = generator(self.settings.seed, "projection")
        return torch.randn(self.backbone.width, self.settings.projection, generator=draw)

    def project(self, features: Tensor) -> Tensor:
        """Return `relu(z W)` (B, M) of features z (B, D)."""
        return torch.relu(features @ self.projection.to(features))

    def concept_features(self, images: Tensor) -> Sequence[Tensor]:
        return [self.project(adapted_features(self.extractor, self.settings, learned(self.state.stack), images))]

    def _scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        features = adapted_features(self.extractor, self.settings, learned(self.state.stack), images, cache)
        values = learned(self.current.head)(self.project(features))
        return Scores(values.softmax(-1), probabilities=self.state.probabilities(values))
