"""MOS: model surgery for pretrained-model-based class-incremental learning (AAAI 2025, arXiv 2412.09441).

A working adapter stack is trained on each experience while it is merged towards the finished ones; a copy
is kept for good. The head is then aligned on features drawn from class statistics. At inference the
stack is found by self-refined retrieval.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache as once
from functools import cached_property
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import linear

from continual import artefact
from continual.adapter_training import AdapterTraining, new_stack
from continual.adapters import StackWeights, per_image, shared, stacked
from continual.alignment import AlignedState, AlignmentSettings, aligned_fields, unpack_aligned
from continual.data import ExperienceData, Label
from continual.feature_cache import FeatureCache
from continual.features import updated_means
from continual.learner import IncrementalLearner
from continual.losses import feature_contrast
from continual.merging import consolidate_mean, effective_alpha, mean, merge_
from continual.retrieval import cosine_scores, ensemble, refine
from continual.settings import AdapterSettings
from continual.state import Scores, State, replace_state, without_row
from continual.training import Output, Progress
from continual.unknowns import judge


class MOSSettings(AdapterSettings, AlignmentSettings):
    """Numbers of MOS; the fields not listed in a preset keep the defaults shown here."""

    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "paper": {"merge": "step", "alpha": 0.1, "consolidate": None, "feature_contrast": 0.0},
        "reference": {"merge": "per_forward", "alpha": 0.1, "consolidate": "mean", "feature_contrast": 0.1},
    }

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


@dataclass(frozen=True)
class MOSState(AlignedState):
    """Finished stacks, head, class statistics (each under its class's own stack), prototypes (under A_1).

    A stack stays when the classes of its experience are forgotten: later ones were merged towards it.
    """

    bank: tuple[StackWeights, ...] = ()
    prototypes: Tensor | None = None  #: (C, D)
    prototype_counts: Tensor | None = None  #: (C,) int64

    def own_without(self, index: int) -> dict[str, Any]:
        """Leave out head row, statistics and prototype."""
        assert self.prototypes is not None
        assert self.prototype_counts is not None
        return super().own_without(index) | {
            "prototypes": without_row(self.prototypes, index),
            "prototype_counts": without_row(self.prototype_counts, index),
        }

    @cached_property
    def experience_of_class(self) -> Tensor:
        """`class_experience` as a tensor, (C,) int64, on the device of the prototypes."""
        device = self.prototypes.device if self.prototypes is not None else "cpu"
        return torch.tensor(self.class_experience, dtype=torch.int64, device=device)

    @cached_property
    def stacked_bank(self) -> dict[str, Tensor]:
        """All finished stacks along a leading axis."""
        return stacked(self.bank)

    @cached_property
    def consolidated_bank(self) -> dict[str, Tensor]:
        """`stacked_bank` with every stack k >= 2 replaced by the mean of those before it."""
        return stacked(consolidate_mean(self.bank))


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
        )

    def _features(self, bank: Sequence[StackWeights], progress: Progress | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return features under each image's own class's stack, under A_1, and class indices."""
        learner, settings = self.learner, self.settings
        experience = torch.tensor(self.class_experience(), device=learner.device)
        first_stack = shared(bank[0], settings.adapter_scale)
        every_stack = stacked(bank)

        def compute(images: Tensor, labels: Sequence[Label]) -> Sequence[Tensor]:
            prefix = learner.prefix(images)
            first = learner.features(prefix, first_stack)
            chosen = experience[[self.index[label] for label in labels]]
            if not chosen.any():
                return first, first
            return learner.features(prefix, per_image(every_stack, chosen, settings.adapter_scale)), first

        (own, first), targets = self.extract(compute, progress)
        return own, first, targets


class MOSLearner(IncrementalLearner[MOSState]):
    """Model surgery: adapter merging and self-refined adapter retrieval.

    Memory grows by one stack, L (2 r D + r + D) numbers, an experience, and by head row, statistics and
    prototype, 2 D + 1 numbers and the statistics' own, a class.
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
        state, settings = self.state, self.settings
        assert state.head is not None
        assert state.prototypes is not None
        head = state.head
        stack_features = self._stack_features(images, cache)
        every = torch.arange(len(images), device=images.device)
        first = stack_features(every, torch.zeros_like(every))
        prototype_scores = cosine_scores(first, state.prototypes)
        last = first.clone()  # under the stack that was run last

        def logits_of(rows: Tensor, stacks: Tensor) -> Tensor:
            features = first[rows]
            # Stage one has already run the first stack on every image.
            others = stacks.nonzero().squeeze(-1)
            if len(others):
                found = stack_features(rows[others], stacks[others])
                features = features.index_copy(0, others, found)
            last[rows] = features
            return linear(features, *head)

        choice = state.experience_of_class[prototype_scores.argmax(-1)]
        found = refine(choice, logits_of, state.experience_of_class, settings.retrieval_rounds)
        if settings.ensemble:
            values = ensemble(found.logits, prototype_scores, state.experiences) / 2
        else:
            values = found.logits.softmax(-1)
        return Scores(values, found.stack, choice, found.refinements, *judge(state.known, last))

    def imagined(self, index: int, count: int, draw: torch.Generator) -> Tensor:
        """Ask the head about a class as remembered under its own stack, which retrieval is trusted to find."""
        assert self.state.head is not None
        sampler = self.state.statistics[index].sampler(self.settings.covariance_floor)
        return linear(sampler.draw(count, draw), *self.state.head).argmax(-1)

    def _stack_features(self, images: Tensor, cache: FeatureCache | None) -> Callable[[Tensor, Tensor], Tensor]:
        """Return a function (rows (M,), stacks (M,)) -> (M, D), features of those images, each under its stack."""
        consolidate, scale = self.settings.consolidate, self.settings.adapter_scale
        bank = self.state.stacked_bank if consolidate is None else self.state.consolidated_bank
        prefix = once(lambda: self.prefix(images))

        def run(rows: Tensor, stacks: Tensor) -> Tensor:
            if (stacks == stacks[0]).all():
                return self.features(prefix()[rows], shared({k: v[stacks[0]] for k, v in bank.items()}, scale))
            return self.features(prefix()[rows], per_image(bank, stacks, scale))

        if cache is None:
            return run

        def remembered(rows: Tensor, stacks: Tensor, cache: FeatureCache = cache) -> Tensor:
            # Consolidation leaves the first stack as it is.
            names = [(k, consolidate if k else None) for k in stacks.tolist()]
            return cache.features(images[rows], names, lambda new: run(rows[new], stacks[new]))

        return remembered

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        state = self.state
        tensors, values = state.pack_aligned()
        if state.prototypes is not None and state.prototype_counts is not None:
            tensors |= {"prototypes/mean": state.prototypes, "prototypes/count": state.prototype_counts}
        for k, stack in enumerate(state.bank):
            tensors |= artefact.join(f"bank/{k}", stack)
        return tensors, values

    def unpack(self, common: State, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> MOSState:
        if not common.classes:
            return replace_state(common, MOSState)
        return replace_state(
            common,
            MOSState,
            bank=tuple(artefact.part(tensors, f"bank/{k}") for k in range(common.experiences)),
            **unpack_aligned(tensors, values),
            prototypes=tensors["prototypes/mean"],
            prototype_counts=tensors["prototypes/count"],
        )
