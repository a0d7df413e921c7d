"""MOS: model surgery for pretrained-model-based class-incremental learning (AAAI 2025, arXiv 2412.09441).

A working adapter stack is trained on each experience while it is merged towards the finished ones; a copy
is kept for good. The head is then aligned on features drawn from class statistics. At inference the
stack is found by self-refined retrieval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, Self, cast

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import linear

from continual.adapters.bottleneck import StackWeights, grouped, per_image, shared, stacked
from continual.backbones.vit import Prefix
from continual.data.inputs import ExperienceData, Label
from continual.errors import InputError
from continual.learning.feature_cache import FeatureCache
from continual.learning.learner import IncrementalLearner
from continual.learning.settings import AdapterSettings
from continual.learning.state import Imagining, Scores, State
from continual.learning.training import Output, Progress
from continual.losses.terms import feature_contrast
from continual.merging.mean import effective_alpha, mean, merge_
from continual.methods.bases.adapter_training import AdapterTraining, new_stack
from continual.methods.bases.alignment import AlignmentSettings, aligned_fields
from continual.methods.mos.adapter_features import StackFeatures
from continual.methods.mos.early_exit import Foretelling
from continual.methods.mos.feature_shift import ShiftSums, StackShifts
from continual.methods.mos.retrieval import Answering, ensemble
from continual.methods.mos.state import MOSState
from continual.seeding import generator
from continual.statistics.class_statistics import Kind, fit
from continual.statistics.prototypes import cosine_scores, updated_means
from continual.uncertainty.gaussians import judge


class MOSSettings(AdapterSettings, AlignmentSettings):
    """Numbers of MOS; the fields not listed in a preset keep the defaults shown here."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"merge": "step", "alpha": 0.1, "consolidate": None, "feature_contrast": 0.0, "statistics": "full"},
        "reference": {
            "merge": "per_forward", "alpha": 0.1, "consolidate": "mean", "feature_contrast": 0.1, "statistics": "full",
        },
    }  # fmt: skip

    at_inference = AdapterSettings.at_inference | {"early_exit"}

    # A twentieth of a full covariance at D = 768, and no worse where it was measured; exact up to 33 images a class.
    statistics: Kind = Field("low_rank", description="what is remembered of a class")
    statistics_components: int = Field(32, ge=1, description="directions of low_rank, centres of centroids")

    merge: Literal["step", "per_forward"] = Field(
        "step", description="once a step (the paper), or as strongly as the published code does"
    )
    alpha: float = Field(0.1, ge=0, le=1, description="merging strength; 0 switches it off")
    consolidate: Literal["mean"] | None = Field(
        None, description="at inference, replace stack k >= 2 by the mean of the stacks before it"
    )
    feature_contrast: float = Field(
        0.0, ge=0, description="weight of the term that pushes features apart; the published code has 0.1"
    )
    contrast_temperature: float = Field(0.8, gt=0)
    retrieval_rounds: int = Field(4, ge=1, description="most stacks tried for one image")
    ensemble: bool = Field(True, description="add stage one's scores to the head's")
    retrieved_views: int = Field(
        1, ge=1, description="with a group: how many of an image's views a retrieved stack is run on"
    )
    early_exit: float | None = Field(
        None, ge=0, lt=1, description="answer without another pass where that is sure; the share of drawn features "
        "that may be answered otherwise decides what is sure (0.005, say)"
    )  # fmt: skip

    @model_validator(mode="after")
    def _one_shortcut(self) -> MOSSettings:
        if self.early_exit is not None and self.consolidate is not None:
            raise ValueError("early_exit foretells the stacks as they were finished: leave consolidate out, or it")
        return self


class MOSTraining(AdapterTraining[MOSState]):
    """Merging after every step, and the feature contrast, on top of adapter training."""

    settings: MOSSettings

    def __init__(self, learner: MOSLearner, data: ExperienceData) -> None:
        before = learner.state
        super().__init__(learner, data, new_stack(learner, before.bank[-1] if before.bank else None), before.head)
        settings: MOSSettings = learner.settings
        self.anchor = mean(before.bank) if before.bank else None
        merges = 1 if settings.merge == "step" else learner.backbone.depth + 1
        self.alpha = effective_alpha(settings.alpha, merges)
        self.means = torch.stack([s.mean for s in before.statistics]) if before.statistics else None
        if not self.new_classes:
            self.epochs = 0

    def batch_loss(self, output: Output, targets: Tensor) -> Tensor:
        """Return the masked cross-entropy plus the weighted feature contrast."""
        loss = super().batch_loss(output, targets)
        if self.settings.feature_contrast == 0:
            return loss
        contrast = feature_contrast(output.features, self.means, self.settings.contrast_temperature)
        return loss + self.settings.feature_contrast * contrast

    def after_step(self) -> None:
        """Merge the working stack towards the finished ones (MOS, equation 6)."""
        if self.anchor is not None and self.alpha > 0:
            merge_(self.stack.weights(), self.anchor, self.alpha)

    def finish(self, progress: Progress | None = None) -> MOSState:
        """Keep the stack, remember the classes, align the head (MOS section 3.2)."""
        before: MOSState = self.before
        bank = (*before.bank, self.stack.frozen()) if self.new_classes else before.bank
        own, first, targets = self._features(bank, progress)
        prototypes, counts = updated_means(
            before.prototypes, before.prototype_counts, first, targets, len(self.classes)
        )
        return MOSState(
            **self.progress_counts(),
            **aligned_fields(self, own, targets),
            bank=bank,
            prototypes=prototypes,
            prototype_counts=counts,
            **self._shifts(first[targets >= len(before.classes)], own[targets >= len(before.classes)]),
        )

    def _shifts(self, first: Tensor, own: Tensor) -> dict[str, Any]:
        """Return what is remembered of all stacks' shifts, given features (n, D) of the new one's images."""
        before: MOSState = self.before
        if not self.new_classes or len(before.shifts) < before.experiences:
            return {"shifts": before.shifts, "shift_sums": before.shift_sums}
        shifts, sums = (*before.shifts, fit(own - first, "low_rank")), ShiftSums.of(first, own)
        # What older files left out of the sums cannot be had any more.
        known = before.shift_sums and before.shift_sums.plus(sums) if before.shifts else sums
        return {"shifts": shifts, "shift_sums": known}

    def _features(self, bank: Sequence[StackWeights], progress: Progress | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return features under each image's own class's stack, under A_1, and class indices."""
        learner, settings = cast(MOSLearner, self.learner), self.settings
        experience = torch.tensor(self.class_experience(), device=learner.device)
        first_stack = shared(bank[0], settings.adapter_scale)
        every_stack = stacked(bank)

        def compute(images: Tensor, labels: Sequence[Label]) -> Sequence[Tensor]:
            prefix = learner.prefix(images)
            first = learner.features(prefix, first_stack)
            chosen = experience[[self.index[label] for label in labels]]
            if not chosen.any():
                return first, first
            return learner.served(prefix, every_stack, chosen), first

        (own, first), targets = self.extract(compute, progress)
        return own, first, targets


class MOSLearner(IncrementalLearner[MOSState]):
    """Model surgery: adapter merging and self-refined adapter retrieval.

    Memory grows by one stack and its shift, L (2 r D + r + D) + 11 D numbers, an experience, and by head row,
    statistics and prototype, 2 D + 1 numbers and the statistics' own, a class. 2 D^2 more tell shifts in advance.
    """

    method = "mos"
    paper = "Sun et al., AAAI 2025, arXiv 2412.09441"
    summary = "one adapter stack an experience, merging in training, self-refined retrieval at inference"
    settings_type = MOSSettings
    state_type = MOSState
    settings: MOSSettings

    def begin(self, data: ExperienceData) -> MOSTraining:
        return MOSTraining(self, data)

    def scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        """Retrieve a stack for each image and return the ensemble's scores (MOS section 3.3)."""
        answering, under = self.answering(), StackFeatures(self, images, cache)
        first = under.first
        last = first.clone()  # under the stack that was run last

        def features_of(rows: Tensor, stacks: Tensor) -> Tensor:
            features = first[rows]
            # Stage one has already run the first stack on every image.
            others = stacks.nonzero().squeeze(-1)
            if len(others):
                features = features.index_copy(0, others, under.later(rows[others], stacks[others]))
            last[rows] = features
            return features

        if self.settings.early_exit is None:
            values, found = answering.retrieve(first, features_of)
        else:
            foretelling, enough = self._foretelling(answering)
            values, found, last = foretelling.answer(first, features_of, enough)
        known = judge(self.state.known, last)
        cosines = cosine_scores(first, answering.prototypes)
        return Scores(values, found.stack, found.path[:, 0], found.refinements, *known, cosines)

    def answering(self) -> Answering:
        """Return what decides an answer once features are known."""
        state, settings = self.state, self.settings
        assert state.head is not None
        assert state.prototypes is not None

        def combine(logits: Tensor, cosines: Tensor) -> Tensor:
            return ensemble(logits, cosines, state.experiences) / 2 if settings.ensemble else logits.softmax(-1)

        return Answering(state.head, state.prototypes, state.experience_of_class, settings.retrieval_rounds, combine)

    def _foretelling(self, answering: Answering) -> tuple[Foretelling, float]:
        """Return what foretells answers, and how certain is enough."""
        state, settings = self.state, self.settings
        assert settings.early_exit is not None
        if len(state.shifts) < state.experiences:
            raise InputError("this model was learned before early_exit was known: leave it out, or learn anew")
        key = settings.early_exit, settings.retrieval_rounds, settings.ensemble
        if key not in state.foretellings:
            draw = generator(settings.seed, "early exit", state.updates, device=self.device)
            made = Foretelling(answering, self.stack_shifts(draw))
            imagined = self.stack_shifts(draw).imagined(
                state.experience_of_class, state.statistics, draw, settings.covariance_floor
            )
            enough = made.enough(imagined, settings.early_exit)
            state.foretellings[key] = made, enough
        return state.foretellings[key]

    def stack_shifts(self, draw: torch.Generator) -> StackShifts:
        """Return how stacks shift features, with worlds drawn anew."""
        state = self.state
        return StackShifts.of(state.shifts, state.shift_sums, state.stacked_bank, draw, self.settings.covariance_floor)

    def imagining(self, after: Self) -> Imagining:
        """Ask the heads about a class as remembered under its own stack, which retrieval is trusted to find."""

        def answers(index: int, count: int, draw: torch.Generator) -> tuple[Tensor, Tensor]:
            again = draw.clone_state()
            return self._imagined(index, count, draw), after._imagined(index, count, again)

        return answers

    def _imagined(self, index: int, count: int, draw: torch.Generator) -> Tensor:
        assert self.state.head is not None
        sampler = self.state.statistics[index].sampler(self.settings.covariance_floor)
        return linear(sampler.draw(count, draw), *self.state.head).argmax(-1)

    def served(self, prefix: Prefix, bank: StackWeights, stacks: Tensor) -> Tensor:
        """Return features (B, D) of images, each under its stack (B,) int64 of a bank."""
        scale = self.settings.adapter_scale
        if (stacks == stacks[0]).all():
            return self.features(prefix, shared({name: tensor[stacks[0]] for name, tensor in bank.items()}, scale))
        # Measured on a CPU (benchmarks/mos_adapters.py); a GPU would wait for many small products.
        if len(stacks) < 16 or stacks.device.type != "cpu":
            return self.features(prefix, per_image(bank, stacks, scale))
        order = stacks.argsort(stable=True)
        found = self.features(prefix[order], grouped(bank, stacks[order], scale))
        return torch.empty_like(found).index_copy_(0, order, found)

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        return self.state.pack()

    def unpack(self, common: State, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> MOSState:
        return MOSState.unpack(common, tensors, values)
