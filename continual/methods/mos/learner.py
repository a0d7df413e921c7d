"""MOS: model surgery for pretrained-model-based class-incremental learning (AAAI 2025, arXiv 2412.09441).

A working adapter is trained on each experience while it is merged towards the finished ones; a copy is kept. The head
is then aligned on features drawn from class statistics. At inference the stack is found by self-refined retrieval.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, Self

import torch
from torch import Tensor

from continual.adapters.bank import completed, shared
from continual.adapters.base import Weights
from continual.data.inputs import ExperienceData
from continual.errors import InputError
from continual.learning.answers import Scores
from continual.learning.concept import Concept
from continual.learning.extractor import Extractor
from continual.learning.feature_cache import FeatureCache
from continual.learning.joining import Meeting
from continual.learning.learner import IncrementalLearner
from continual.learning.porting import Space
from continual.learning.state import JointClasses, Simulation, learned
from continual.methods.bases.alignment import drawn_answers
from continual.methods.bases.moved_alignment import ported_fields
from continual.methods.bases.regression_update import RegressionState, RegressionUpdate
from continual.methods.mos.adapter_features import AdapterFeatures
from continual.methods.mos.early_exit import EarlyExit
from continual.methods.mos.feature_shift import FeatureShiftModel, moved_shifts
from continual.methods.mos.joining import joined
from continual.methods.mos.retrieval import Answering, ensemble
from continual.methods.mos.ridge_stage import first_answer, refined, regression_of
from continual.methods.mos.settings import MOSSettings
from continual.methods.mos.state import MOSState
from continual.methods.mos.training import MOSTraining
from continual.methods.strata import StrataLearner
from continual.seeding import generator
from continual.statistics.head import cosine_scores
from continual.symmetry import KINDS


class MOSLearner(IncrementalLearner[MOSState]):
    """Model surgery: adapter merging and self-refined adapter retrieval.

    Memory grows by one adapter and its shift, L (2 r D + r + D) + 11 D numbers, per experience, and by head row,
    statistics and prototype, 2 D + 1 numbers and the statistics' own, per class. 2 D^2 more predict shifts. With
    `stage_one="ridge"` a strata is remembered as well: D' (D' + 3) / 2 numbers, and 2 D' per class.
    """

    method = "mos"
    paper = "Sun et al., AAAI 2025, arXiv 2412.09441"
    summary = "one adapter per experience, merging in training, self-refined retrieval at inference"
    settings_type = MOSSettings
    state_type = MOSState
    learns_unlabelled = True
    settings: MOSSettings
    unportable = None
    unmergeable = None
    keeps_answers = True
    suppresses = True
    keeps_every_adapter = True

    def check(self) -> None:
        super().check()
        own = self.settings
        if self.by_regression and own.group and KINDS.get(own.symmetry).reads_features:
            raise InputError(
                f"stage_one='ridge' averages the tokens of views, and {own.symmetry} weighs features: choose "
                "symmetry='equitune', or stage_one='prototypes'"
            )

    def concept_features(self, images: Tensor) -> Sequence[Tensor]:
        return self._under_each(self.extractor, images)

    def begin(self, data: ExperienceData) -> MOSTraining:
        def regression(first: Weights) -> RegressionUpdate:
            return self.regression_under(first).begin(data)

        return MOSTraining(self.start, data, regression if self.by_regression else None)

    @property
    def by_regression(self) -> bool:
        """Whether stage one is a ridge regression."""
        return self.settings.stage_one == "ridge"

    @property
    def regression(self) -> StrataLearner:
        """The strata that stage one asks where it is a ridge regression; see `ridge_stage`."""
        return self.regression_under(self.state.bank[0] if self.state.bank else None)

    def regression_under(self, first: Weights | None) -> StrataLearner:
        """Return it for a first adapter."""
        read = first if self.settings.regressed == "first" else None
        adapters = None if read is None else shared(self.settings.adapter_kind, read)
        return regression_of(self, self.state.regression, adapters)

    @property
    def heeds_keep_answers(self) -> bool:
        return super().heeds_keep_answers and (not self.by_regression or self.settings.within > 0)

    @property
    def adapted(self) -> bool:
        return True

    def remembered_features(self, extractor: Extractor, images: Tensor) -> Sequence[Tensor]:
        tokens = self.regression.remembered_features(extractor, images) if self.by_regression else ()
        return [*self._under_each(extractor, images), *tokens]

    def _under_each(self, extractor: Extractor, images: Tensor) -> list[Tensor]:
        """Return features (B, D) of prepared images under every adapter."""
        kind = self.settings.adapter_kind
        stem = extractor.stem(images, reads=kind.reads)
        return [extractor.features(stem, shared(kind, own)) for own in completed(self.state.bank)]

    def suppress(self, concept: Concept, strength: float | None = None, **options: Any) -> None:
        own = self.regression if self.by_regression and options.get("edit", "head") == "head" else None
        if own is not None and self.classes:
            own.suppress(concept, strength, **options)
        super().suppress(concept, strength, **options)
        self.state = self.state if own is None else replace(self.state, regression=own.state)

    def allow(self, name: str) -> None:
        super().allow(name)
        known = self.state.regression
        if known is not None and name in [one.name for one in known.ignored or ()]:
            own = self.regression
            own.allow(name)
            self.state = replace(self.state, regression=own.state)

    def ported(self, target: Self, spaces: Sequence[Space], keep_answers: float) -> MOSState:
        """Copy the adapters; map what is remembered under each by its own map, and align the head again.

        The part of shifts that is linear in features is forgotten: it follows from images alone.
        """
        state, places = target.state, target.state.class_experience
        own = None
        if self.by_regression:
            *spaces, tokens = spaces
            own = self.regression.ported(target.regression, [tokens], keep_answers)
        return replace(
            state,
            regression=own,
            **ported_fields(self.settings, state, spaces, places, keep_answers),
            prototypes=spaces[0].map.prototypes(learned(state.prototypes)),
            shifts=moved_shifts(state.shifts, state.shift_sums, [space.map for space in spaces]),
            shift_sums=None,
        )

    def joined_apart(self, states: Sequence[MOSState], joint: JointClasses, meeting: Meeting) -> MOSState:
        found = joined(self.settings.adapter_kind, self.settings, states, joint, meeting)
        if not self.by_regression:
            return found
        parts = [self._under_that_of_the_first(number, states, meeting) for number in range(len(states))]
        own = self.regression_under(states[0].bank[0])
        return replace(found, regression=own.joined(parts, joint))

    def _under_that_of_the_first(self, number: int, states: Sequence[MOSState], meeting: Meeting) -> RegressionState:
        """Return a state's regression of tokens under the first state's first adapter: mapped, if it has another."""
        (mine, its), state = (states[n].bank[0] for n in (number, 0)), learned(states[number].regression)
        if self.settings.regressed == "frozen" or all(torch.equal(own, its[name]) for name, own in mine.items()):
            return state
        to = meeting.map((number, len(states[number].bank)), (0, len(states[0].bank)))
        return replace(state, sums=to.sums(learned(state.sums)))

    def port_simulation(self, after: Self, spaces: Sequence[Space]) -> Simulation | None:
        if self.by_regression:
            return self.regression.port_simulation(after.regression, spaces[-1:])
        return drawn_answers(self.settings, self.state, after.state, spaces, self.state.class_experience)

    def _scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        """Retrieve an adapter for each image and return the ensemble's scores (MOS section 3.3)."""
        settings, answering = self.settings, self.answering()
        kind, rule, views = settings.adapter_kind, settings.consolidate, settings.retrieved_views
        bank = self.state.stacked_bank(rule)
        under = AdapterFeatures(self.extractor, kind, bank, images, views=views, bank_name=rule, cache=cache)
        if self.by_regression:
            return self.refined(self.regression._scores(images, cache), under.of_each)
        first, last = under.first, under.first.clone()  # the last is under the adapter that was run last

        def features_of(rows: Tensor, stacks: Tensor) -> Tensor:
            features = first[rows]
            others = stacks.nonzero().squeeze(-1)  # stage one has run the first adapter on every image
            if len(others):
                features = features.index_copy(0, others, under.later(rows[others], stacks[others]))
            last[rows] = features
            return features

        if settings.early_exit is None:
            values, found = answering.retrieve(first, features_of)
        else:
            predictor, enough = self._early_exit(answering)
            values, found, last = predictor.answer(first, features_of, enough)
        cosines = cosine_scores(first, answering.prototypes)
        return Scores(values, found.stack, found.path[:, 0], found.refinements, *self.judged(values, last), cosines)

    def refined(self, said: Scores, features_of: Callable[[Tensor], Tensor]) -> Scores:
        """Return what becomes of the regression's scores; `features_of(stacks (B,))` gives features (B, D) of images.

        What is unlike all classes stays what the regression says it is.
        """
        experience = self.state.experience_of_class
        p, found = first_answer(said, experience)
        values, within = p, self.settings.within
        if within:
            values = refined(p, self.state.heeding(features_of(found)), found, experience, within)
        known = None if said.probabilities is None else values
        return Scores(values, found, found, torch.zeros_like(found), known, said.p_value, said.similarity)

    def judged(self, values: Tensor, last: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the probabilities (B, C) of scores (B, C), and the p-value (B,) of features (B, D) of the last stack.

        The temperature is that of features drawn under their own stack, from which those under the first lie as far as
        the two means of their class do: retrieval is trusted to find it.
        """
        state, answering = self.state, self.answering()

        def decide(features: Tensor, own: Tensor) -> Tensor:
            shifts = answering.prototypes - torch.stack([s.mean for s in state.statistics])
            cosines = cosine_scores(features + shifts[own], answering.prototypes)
            return answering.combine(answering.head(features), cosines)

        return state.judged(self.settings, values, last, decide, self.settings.ensemble)

    def answering(self) -> Answering:
        """Return what decides an answer once features are known."""
        state, settings = self.state, self.settings

        def combine(logits: Tensor, cosines: Tensor) -> Tensor:
            return ensemble(logits, cosines, state.experiences) / 2 if settings.ensemble else logits.softmax(-1)

        experience = state.experience_of_class
        return Answering(state.heeding, learned(state.prototypes).mean, experience, settings.retrieval_rounds, combine)

    def _early_exit(self, answering: Answering) -> tuple[EarlyExit, float]:
        """Return what predicts answers, and how certain is enough."""
        state, settings = self.state, self.settings
        assert settings.early_exit is not None
        if len(state.shifts) < state.experiences:
            raise InputError("this model was learned before early_exit was known: leave it out, or learn again")
        key = settings.early_exit, settings.retrieval_rounds, settings.ensemble
        if key not in state.early_exits:
            draw = generator(settings.seed, "early exit", state.updates, device=self.device)
            made = EarlyExit(answering, self.shift_model(draw))
            remembered = state.experience_of_class, state.statistics
            simulated = self.shift_model(draw).simulated(*remembered, draw, settings.covariance_floor)
            state.early_exits[key] = made, made.enough(simulated, settings.early_exit)
        return state.early_exits[key]

    def shift_model(self, draw: torch.Generator) -> FeatureShiftModel:
        """Return how adapters shift features, with its Monte Carlo samples drawn again."""
        state, floor = self.state, self.settings.covariance_floor
        return FeatureShiftModel.of(state.shifts, state.shift_sums, state.stacked_bank(), draw, floor)

    def simulation(self, after: Self) -> Simulation | None:
        """Ask the heads about a class as remembered under its own adapter, which retrieval is trusted to find.

        Where stage one is a regression, what it says is asked about alone.
        """
        if self.by_regression:
            return self.regression.simulation(after.regression)

        def answers(index: int, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
            again = draw.clone_state()
            return self._simulated(index, count, draw), after._simulated(index, count, again)

        return answers

    def _simulated(self, index: int, count: int, draw: torch.Generator) -> Tensor:
        sampler = self.state.statistics[index].sampler(self.settings.covariance_floor)
        return self.state.heeding(sampler.draw(count, draw)).argmax(-1)
