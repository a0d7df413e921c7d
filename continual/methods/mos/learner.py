"""MOS: model surgery for pretrained-model-based class-incremental learning (AAAI 2025, arXiv 2412.09441).

A working adapter is trained on each experience while it is merged towards the finished ones; a copy is kept. The head
is then aligned on features drawn from class statistics. At inference the stack is found by self-refined retrieval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar, Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from continual import merging
from continual.adapters.bank import completed, serve, shared, stacked
from continual.adapters.base import Weights
from continual.data.inputs import ExperienceData, Label
from continual.errors import InputError
from continual.learning.answers import Scores
from continual.learning.extractor import Extractor
from continual.learning.feature_cache import FeatureCache
from continual.learning.joining import Meeting
from continual.learning.learner import IncrementalLearner
from continual.learning.porting import Space
from continual.learning.settings import AdapterSettings
from continual.learning.state import JointClasses, Simulation, learned
from continual.learning.training import Progress, Start
from continual.losses.feature_contrast import FeatureContrast
from continual.merging.base import check_settings, effective_alpha, merge_, merged
from continual.methods.bases.adapter_training import AdapterTraining, beginning
from continual.methods.bases.alignment import AlignmentSettings, ClassFits, aligned_fields, drawn_answers
from continual.methods.bases.moved_alignment import ported_fields
from continual.methods.mos.adapter_features import AdapterFeatures
from continual.methods.mos.early_exit import EarlyExit
from continual.methods.mos.feature_shift import FeatureShiftModel, Shifts, moved_shifts
from continual.methods.mos.joining import joined
from continual.methods.mos.retrieval import Answering, ensemble
from continual.methods.mos.state import MOSState
from continual.registry import Registry
from continual.seeding import generator
from continual.statistics.class_statistics import Kind
from continual.statistics.head import PrototypeSums, cosine_scores


class MOSSettings(AdapterSettings, AlignmentSettings):
    """Numbers of MOS; the fields not listed in a preset keep the defaults shown here."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"merge": "step", "alpha": 0.1, "consolidate": None, "feature_contrast": 0.0, "statistics": "full"},
        "reference": {
            "merge": "per_forward", "alpha": 0.1, "consolidate": "mean", "feature_contrast": 0.1, "statistics": "full",
        },
    }  # fmt: skip

    at_inference = AdapterSettings.at_inference | {"early_exit"}
    named: ClassVar[Mapping[str, Registry]] = {
        **AdapterSettings.named, "anchor": merging.RULES, "consolidate": merging.RULES
    }  # fmt: skip

    # A twentieth of a full covariance at D = 768, and no worse where it was measured; exact up to 33 images per class.
    statistics: Kind = Field("low_rank", description="what is remembered of a class")
    statistics_components: int = Field(32, ge=1, description="directions of low_rank, centres of centroids")

    merge: Literal["step", "per_forward"] = Field("step", description="once a step (the paper), or as its code does")
    alpha: float = Field(0.1, ge=0, le=1, description="merging strength; 0 switches it off")
    anchor: str = Field("mean", description="rule by which finished adapters become what is merged towards")
    anchor_args: dict[str, Any] = Field(default_factory=dict, description="settings of that rule")
    consolidate: str | None = Field(
        None, description="at inference, replace adapter k >= 2 by a merge of those before it, by this rule: mean"
    )
    feature_contrast: float = Field(0.0, ge=0, description="weight of pushing features apart; the published code: 0.1")
    contrast_temperature: float = Field(0.8, gt=0)
    retrieval_rounds: int = Field(4, ge=1, description="most adapters tried for one image")
    ensemble: bool = Field(True, description="add stage one's scores to the head's")
    retrieved_views: int = Field(1, ge=1, description="with a group: on how many views a retrieved adapter is run")
    early_exit: float | None = Field(
        None, ge=0, lt=1, description="answer without another pass where that is sure; the share of drawn features "
        "that may be answered otherwise decides what is sure (0.005, say)"
    )  # fmt: skip

    @model_validator(mode="after")
    def _known_anchor_args(self) -> MOSSettings:
        check_settings(self.anchor, self.anchor_args)
        return self

    @model_validator(mode="after")
    def _one_shortcut(self) -> MOSSettings:
        if self.early_exit is not None and self.consolidate is not None:
            raise ValueError("early_exit predicts the adapters as they were finished: leave consolidate out, or it")
        return self


class MOSTraining(AdapterTraining[MOSState]):
    """Merging after every step, and the feature contrast, on top of adapter training."""

    settings: MOSSettings

    def __init__(self, start: Start[MOSState], data: ExperienceData) -> None:
        before, settings = start.state, start.settings
        contrast = FeatureContrast(weight=settings.feature_contrast, temperature=settings.contrast_temperature)
        newest = completed(before.bank)[-1] if before.bank else None
        fixed = settings.adapter_kind.reading if before.bank else ()
        super().__init__(start, data, newest, before.head, contrast, fixed=fixed)
        self.anchor: Weights | None = None
        if before.bank:
            begin = beginning(settings, start.extractor.backbone, before.bank[0])
            only = self.adapter.weights().keys()
            self.anchor = merged(settings.anchor, before.bank, begin, only=only, **settings.anchor_args)
        merges = 1 if settings.merge == "step" else start.extractor.backbone.depth + 1
        self.alpha = effective_alpha(settings.alpha, merges)
        self.epochs = self.epochs if self.new_classes else 0

    def after_step(self) -> None:
        """Merge the working adapter towards the finished ones (MOS, equation 6)."""
        super().after_step()
        if self.anchor is not None and self.alpha > 0:
            merge_(self.adapter.weights(), self.anchor, self.alpha)
            self.unread()

    def finish(self, progress: Progress | None = None) -> MOSState:
        """Keep the adapter, remember the classes, align the head (MOS section 3.2)."""
        before = self.before
        bank = (*before.bank, self.adapter.frozen()) if self.new_classes else before.bank
        fits, prototypes = ClassFits(self.settings), PrototypeSums(before.prototypes, len(self.classes))
        shifts = Shifts(before.shifts, before.shift_sums, before.experiences)

        def fold(found: list[Tensor], targets: Tensor) -> list[Tensor]:
            (own, first), new = found, targets >= len(before.classes)
            fits.add(own, targets)
            prototypes.add(first, targets)
            shifts.add(first[new], own[new])
            return [own]

        held = self.streamed(self._reading(bank), fold, progress, by_class=True)
        known = {**aligned_fields(self, fits, held), **shifts.fields(), "prototypes": prototypes.prototypes()}
        return MOSState(**self.progress_counts(), **known, bank=bank)

    def _reading(self, bank: Sequence[Weights]) -> Callable[[Tensor, Sequence[Label]], Sequence[Tensor]]:
        """Return what reads images' features under their own class's adapter, and under A_1."""
        kind, extractor = self.settings.adapter_kind, self.extractor
        experience = torch.tensor(self.class_experience(), device=self.device)
        under_first, every = shared(kind, bank[0]), stacked(bank)

        def compute(images: Tensor, labels: Sequence[Label]) -> Sequence[Tensor]:
            stem = extractor.stem(images, reads=kind.reads)
            first, chosen = extractor.features(stem, under_first), experience[[self.index[label] for label in labels]]
            return (serve(kind, extractor.features, stem, every, chosen) if chosen.any() else first), first

        return compute


class MOSLearner(IncrementalLearner[MOSState]):
    """Model surgery: adapter merging and self-refined adapter retrieval.

    Memory grows by one adapter and its shift, L (2 r D + r + D) + 11 D numbers, per experience, and by head row,
    statistics and prototype, 2 D + 1 numbers and the statistics' own, per class. 2 D^2 more predict shifts.
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

    def concept_features(self, images: Tensor) -> Sequence[Tensor]:
        return self.remembered_features(self.extractor, images)

    def begin(self, data: ExperienceData) -> MOSTraining:
        return MOSTraining(self.start, data)

    @property
    def adapted(self) -> bool:
        return True

    def remembered_features(self, extractor: Extractor, images: Tensor) -> Sequence[Tensor]:
        kind = self.settings.adapter_kind
        stem = extractor.stem(images, reads=kind.reads)
        return [extractor.features(stem, shared(kind, own)) for own in completed(self.state.bank)]

    def ported(self, target: Self, spaces: Sequence[Space], keep_answers: float) -> MOSState:
        """Copy the adapters; map what is remembered under each by its own map, and align the head again.

        The part of shifts that is linear in features is forgotten: it follows from images alone.
        """
        state, places = target.state, target.state.class_experience
        return replace(
            state,
            **ported_fields(self.settings, state, spaces, places, keep_answers),
            prototypes=spaces[0].map.prototypes(learned(state.prototypes)),
            shifts=moved_shifts(state.shifts, state.shift_sums, [space.map for space in spaces]),
            shift_sums=None,
        )

    def joined_apart(self, states: Sequence[MOSState], joint: JointClasses, meeting: Meeting) -> MOSState:
        return joined(self.settings.adapter_kind, self.settings, states, joint, meeting)

    def port_simulation(self, after: Self, spaces: Sequence[Space]) -> Simulation:
        return drawn_answers(self.settings, self.state, after.state, spaces, self.state.class_experience)

    def _scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        """Retrieve an adapter for each image and return the ensemble's scores (MOS section 3.3)."""
        settings, answering = self.settings, self.answering()
        kind, rule, views = settings.adapter_kind, settings.consolidate, settings.retrieved_views
        bank = self.state.stacked_bank(rule)
        under = AdapterFeatures(self.extractor, kind, bank, images, views=views, bank_name=rule, cache=cache)
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

    def simulation(self, after: Self) -> Simulation:
        """Ask the heads about a class as remembered under its own adapter, which retrieval is trusted to find."""

        def answers(index: int, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
            again = draw.clone_state()
            return self._simulated(index, count, draw), after._simulated(index, count, again)

        return answers

    def _simulated(self, index: int, count: int, draw: torch.Generator) -> Tensor:
        sampler = self.state.statistics[index].sampler(self.settings.covariance_floor)
        return self.state.heeding(sampler.draw(count, draw)).argmax(-1)
