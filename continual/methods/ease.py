"""EASE: a subspace of its own for every experience, prototypes in all of them, old ones synthesised in new ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import normalize

from continual.adapters.bottleneck import StackWeights, shared
from continual.data.inputs import ExperienceData
from continual.learning import model_file
from continual.learning.feature_cache import FeatureCache
from continual.learning.learner import IncrementalLearner
from continual.learning.settings import AdapterSettings, Settings
from continual.learning.state import Scores, State, replace_state, without_row
from continual.learning.training import Progress
from continual.methods.bases.adapter_training import PrototypeAdapterTraining, new_stack
from continual.statistics.prototypes import cosine_scores


class EASESettings(AdapterSettings):
    """Numbers of EASE, as its authors' toolbox has them."""

    lr: float = Field(0.025, gt=0, description="peak rate of the adapters")
    head_lr_ratio: float = Field(1.0, gt=0, description="the temporary head's rate as a share of lr")
    bottleneck: int = Field(64, ge=1, description="r, the width of an adapter")
    other_subspaces: float = Field(
        0.1, ge=0, description="weight of a subspace in the score of a class of another experience"
    )


@dataclass(frozen=True)
class EASEState(State):
    """One stack an experience; prototypes of all C classes in all T subspaces."""

    bank: tuple[StackWeights, ...] = ()
    prototypes: Tensor | None = None  #: (T, C, D)
    counts: Tensor | None = None  #: (T, C) int64, images a prototype is the mean of; 0 if it was synthesised

    def own_without(self, index: int) -> dict[str, Any]:
        """Leave out the class's prototypes in all subspaces; the subspace it was learned in stays."""
        assert self.prototypes is not None
        assert self.counts is not None
        return {"prototypes": without_row(self.prototypes, index, 1), "counts": without_row(self.counts, index, 1)}


def synthesised(old: Tensor, new: Tensor, target: Tensor) -> Tensor:
    """Return prototypes (O, D) of old classes in a subspace that was made after their images had gone.

    `old` (O, D) and `new` (N, D) are both kinds of classes' prototypes in the old subspace, `target` (N, D) the
    new classes' in the new one: `softmax_j(cos(old_i, new_j)) @ target` (EASE section 4.2).
    """
    return cosine_scores(old, new).softmax(-1) @ target


def reweighted(features: Tensor, prototypes: Tensor, class_experience: Tensor, others: float) -> Tensor:
    """Return the score (B, C) of each class: its cosines summed over the subspaces (EASE section 4.3).

    The class's own subspace, that of its experience, has weight 1, the others `others`. Shapes: features
    (T, B, D), prototypes (T, C, D), class_experience (C,) int64.
    """
    cosines = normalize(features, dim=-1) @ normalize(prototypes, dim=-1).mT
    own = torch.arange(len(features), device=features.device)[:, None] == class_experience
    return (cosines * torch.where(own, 1.0, others)[:, None]).sum(0)


class EASETraining(PrototypeAdapterTraining[EASEState]):
    """Trains a fresh stack with a temporary head for the new classes, then remembers prototypes."""

    def __init__(self, learner: EASELearner, data: ExperienceData) -> None:
        super().__init__(learner, data, new_stack(learner, None, learner.state.experiences))
        if not self.new_classes:
            self.epochs = 0

    def finish(self, progress: Progress | None = None) -> EASEState:
        before: EASEState = self.before
        bank = (*before.bank, self.stack.frozen()) if self.new_classes else before.bank
        stacks = [shared(stack, self.settings.adapter_scale) for stack in bank]
        learner = self.learner

        def compute(images: Tensor, _: Any) -> list[Tensor]:
            prefix = learner.prefix(images)
            return [learner.features(prefix, stack) for stack in stacks]

        columns, targets = self.extract(compute, progress)
        prototypes, counts = self._updated(torch.stack(columns), targets)
        return EASEState(**self.progress_counts(), bank=bank, prototypes=prototypes, counts=counts)

    def _updated(self, features: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Return prototypes (T, C, D) and counts (T, C) with the features (T, n, D) of the experience."""
        before: EASEState = self.before
        shape = len(features), len(self.classes)
        prototypes = features.new_zeros(*shape, features.shape[-1])
        counts = torch.zeros(shape, dtype=torch.int64, device=features.device)
        if before.prototypes is not None and before.counts is not None:
            subspaces, classes = before.counts.shape
            prototypes[:subspaces, :classes], counts[:subspaces, :classes] = before.prototypes, before.counts
        for target in targets.unique().tolist():
            mine, known = features[:, targets == target], counts[:, target]
            images = known + mine.shape[1]
            # A synthesised prototype has the count 0: the mean of real images takes its place.
            prototypes[:, target] = (prototypes[:, target] * known[:, None] + mine.sum(1)) / images[:, None]
            counts[:, target] = images
        if self.new_classes:
            new = slice(len(before.classes), None)
            for target in (counts[-1] == 0).nonzero().squeeze(-1).tolist():
                own = prototypes[self.class_experience()[target]]
                prototypes[-1, target] = synthesised(own[target][None], own[new], prototypes[-1, new])[0]
        return prototypes, counts


class EASELearner(IncrementalLearner[EASEState]):
    """One stack an experience, each a subspace; cosine to prototypes in all of them.

    An image is run once a stack; the embedding and the first block's attention are shared. Memory grows by
    one stack, L (2 r D + r + D) numbers, an experience, and is T (D + 1) numbers for each class. A class that
    returns trains nothing; its prototypes become real where they had been synthesised.

    Follows the paper where its code does otherwise: that divides `other_subspaces` by the number of earlier
    experiences, and synthesises old prototypes anew each experience, also from classes that came later.
    """

    method = "ease"
    paper = "Zhou et al., CVPR 2024, arXiv 2403.12030"
    summary = "one adapter stack an experience; prototypes in every subspace, old ones synthesised in new ones"
    linear_memory = False
    probabilities = False
    settings_type: ClassVar[type[Settings]] = EASESettings
    state_type = EASEState

    def begin(self, data: ExperienceData) -> EASETraining:
        return EASETraining(self, data)

    def scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        """Return the softmax of the reweighted sums of cosines."""
        state = self.state
        assert state.prototypes is not None
        experience = torch.tensor(state.class_experience, device=images.device)
        sums = reweighted(
            self.subspace_features(images, cache), state.prototypes, experience, self.settings.other_subspaces
        )
        return Scores(sums.softmax(-1))

    def subspace_features(self, images: Tensor, cache: FeatureCache | None = None) -> Tensor:
        """Return the features (T, B, D) of prepared images under every stack, from `cache` where it has them."""
        stacks = [shared(stack, self.settings.adapter_scale) for stack in self.state.bank]
        if cache is None:
            prefix = self.prefix(images)
            return torch.stack([self.features(prefix, stack) for stack in stacks])
        found = []
        for number, stack in enumerate(stacks):

            def compute(rows: Tensor, stack: Any = stack) -> Tensor:
                return self.features(images[rows], stack)

            found.append(cache.features(images, [("stack", number)] * len(images), compute))
        return torch.stack(found)

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        state = self.state
        if state.prototypes is None or state.counts is None:
            return {}, {}
        tensors = {"prototypes/mean": state.prototypes, "prototypes/count": state.counts}
        for k, stack in enumerate(state.bank):
            tensors |= model_file.join(f"bank/{k}", stack)
        return tensors, {}

    def unpack(self, common: State, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> EASEState:
        if not common.classes:
            return replace_state(common, EASEState)
        return replace_state(
            common,
            EASEState,
            bank=tuple(model_file.part(tensors, f"bank/{k}") for k in range(common.experiences)),
            prototypes=tensors["prototypes/mean"],
            counts=tensors["prototypes/count"],
        )
