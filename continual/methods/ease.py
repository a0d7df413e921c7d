"""EASE: a subspace of its own for every experience, prototypes in all of them, old ones synthesised in new ones."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch
from pydantic import Field
from torch import Tensor

from continual.adapters.bank import shared
from continual.adapters.base import Weights
from continual.data.inputs import ExperienceData
from continual.learning.answers import Scores
from continual.learning.extractor import Extractor
from continual.learning.feature_cache import FeatureCache
from continual.learning.joining import Meeting
from continual.learning.learner import IncrementalLearner
from continual.learning.porting import Space
from continual.learning.settings import AdapterSettings
from continual.learning.state import JointClasses, learned
from continual.learning.training import Progress, Start
from continual.methods.bases.adapter_training import PrototypeAdapterTraining
from continual.methods.bases.every_adapter import remembered_under_each, under_each
from continual.methods.bases.joint_bank import JointBank
from continual.methods.bases.tempered import TemperedState, sampled, temperature_after
from continual.statistics.head import Prototypes, cosine_scores
from continual.uncertainty.left_out import cosines_left_out
from continual.uncertainty.temperature import joined


class EASESettings(AdapterSettings):
    """Numbers of EASE, as its authors' toolbox has them."""

    lr: float = Field(0.025, gt=0, description="peak rate of the adapters")
    head_lr_ratio: float = Field(1.0, gt=0, description="the temporary head's rate as a share of lr")
    bottleneck: int = Field(64, ge=1, description="r, the width of an adapter")
    other_subspaces: float = Field(0.1, ge=0, description="weight of other experiences' subspaces in a class's score")


@dataclass(frozen=True)
class EASEState(TemperedState):
    """One adapter per experience; prototypes of all C classes in all T subspaces, whose count is 0 if synthesised.

    Of a class that is forgotten, the subspace it was learned in stays.
    """

    bank: tuple[Weights, ...] = ()
    prototypes: Prototypes | None = None  #: (T, C, D)


def synthesised(old: Tensor, new: Tensor, target: Tensor) -> Tensor:
    """Return prototypes (O, D) of old classes in a subspace that was made after their images had gone.

    `old` (O, D) and `new` (N, D) are both kinds of classes' prototypes in the old subspace, `target` (N, D) the
    new classes' in the new one: `softmax_j(cos(old_i, new_j)) @ target` (EASE section 4.2).
    """
    return cosine_scores(old, new).softmax(-1) @ target


def reweighted(cosines: Tensor, class_experience: Tensor, others: float) -> Tensor:
    """Return the score (B, C) of each class: its cosines (T, B, C) summed over the subspaces (EASE section 4.3).

    The class's own subspace, that of its experience `class_experience` (C,) int64, has weight 1, the others `others`.
    """
    own = torch.arange(len(cosines), device=cosines.device)[:, None] == class_experience
    return (cosines * torch.where(own, 1.0, others)[:, None]).sum(0)


class EASETraining(PrototypeAdapterTraining[EASEState]):
    """Trains a new adapter with a temporary head for the new classes, then remembers prototypes."""

    def __init__(self, start: Start[EASEState], data: ExperienceData) -> None:
        super().__init__(start, data, None, keys=(start.state.experiences,))
        if not self.new_classes:
            self.epochs = 0

    def finish(self, progress: Progress | None = None) -> EASEState:
        before, extractor = self.before, self.extractor
        bank = (*before.bank, self.adapter.frozen()) if self.new_classes else before.bank
        served = [shared(self.settings.adapter_kind, stack) for stack in bank]
        shape = len(bank), len(self.classes)
        mean = torch.zeros(*shape, extractor.backbone.width, device=self.device)
        count = torch.zeros(shape, dtype=torch.int64, device=self.device)
        if before.prototypes is not None:
            subspaces, classes = before.prototypes.count.shape
            mean[:subspaces, :classes], count[:subspaces, :classes] = before.prototypes.mean, before.prototypes.count

        def fold(columns: list[Tensor], targets: Tensor) -> list[Tensor]:
            nonlocal mean
            mean = mean.to(columns[0].dtype)
            self._add(mean, count, torch.stack(columns), targets)
            return columns

        held = self.streamed(lambda images, _: under_each(extractor, served, images), fold, progress)
        self._synthesise(mean, count)
        prototypes = Prototypes(mean, count)
        cosines, labels = cosines_left_out(torch.stack(held.columns), held.labels, prototypes, self.copies)
        experience = torch.tensor(self.class_experience(), device=self.device)
        values = reweighted(cosines, experience, self.settings.other_subspaces)
        known = temperature_after(self, values, labels, sampled(values, held.stands_for))
        return EASEState(**self.progress_counts(), bank=bank, prototypes=prototypes, temperature=known)

    def _add(self, mean: Tensor, count: Tensor, features: Tensor, targets: Tensor) -> None:
        """Add features (T, n, D) of images to prototypes (T, C, D) and how many images they are of (T, C)."""
        for target in targets.unique().tolist():
            mine, known = features[:, targets == target], count[:, target]
            images = known + mine.shape[1]
            # A synthesised prototype has the count 0: the mean of real images takes its place.
            mean[:, target] = (mean[:, target] * known[:, None] + mine.sum(1)) / images[:, None]
            count[:, target] = images

    def _synthesise(self, mean: Tensor, count: Tensor) -> None:
        """Put prototypes in the newest subspace where there are no images."""
        if self.new_classes:
            new = slice(len(self.before.classes), None)
            for target in (count[-1] == 0).nonzero().squeeze(-1).tolist():
                own = mean[self.class_experience()[target]]
                mean[-1, target] = synthesised(own[target][None], own[new], mean[-1, new])[0]


class EASELearner(IncrementalLearner[EASEState]):
    """One adapter per experience, each a subspace; cosine to prototypes in all of them.

    An image is run once per adapter; the embedding and the first block's attention are shared. Memory grows by
    one adapter, L (2 r D + r + D) numbers, per experience, and is T (D + 1) numbers per class. A class that
    returns trains nothing; its prototypes become real where they had been synthesised.

    Follows the paper where its code does otherwise: that divides `other_subspaces` by the number of earlier
    experiences, and synthesises old prototypes in each experience, also from classes that came later.
    """

    method = "ease"
    paper = "Zhou et al., CVPR 2024, arXiv 2403.12030"
    summary = "one adapter per experience; prototypes in every subspace, old ones synthesised in new ones"
    linear_memory = False
    settings_type = EASESettings
    learns_unlabelled = True
    state_type = EASEState
    unportable = None
    unmergeable = None
    keeps_every_adapter = True

    def begin(self, data: ExperienceData) -> EASETraining:
        return EASETraining(self.start, data)

    @property
    def adapted(self) -> bool:
        return True

    def remembered_features(self, extractor: Extractor, images: Tensor) -> Sequence[Tensor]:
        served = [shared(self.settings.adapter_kind, stack) for stack in self.state.bank]
        return under_each(extractor, served, images)

    def ported(self, target: Self, spaces: Sequence[Space], keep_answers: float) -> EASEState:
        """Map the prototypes of every subspace by its own map."""
        known = learned(target.state.prototypes)
        mean = torch.stack([space.map.points(own) for space, own in zip(spaces, known.mean, strict=True)])
        return replace(target.state, prototypes=replace(known, mean=mean))

    def joined_apart(self, states: Sequence[EASEState], joint: JointClasses, meeting: Meeting) -> EASEState:
        """Keep every subspace; a prototype in another model's is that of its own, as a map takes it there.

        Where a model has synthesised one itself, and no other knows the class, it stays.
        """
        bank = JointBank.of([state.bank for state in states], joint, meeting)
        of_class = [bank.numbers[origin] for origin in joint.origins]
        known = [learned(state.prototypes) for state in states]
        mean = known[0].mean.new_zeros(len(bank.bank), len(joint.classes), known[0].mean.shape[-1])
        count = torch.zeros(mean.shape[:2], dtype=torch.int64, device=mean.device)
        for model, (state, own, places) in enumerate(zip(states, known, joint.places, strict=True)):
            there = {number: k for (m, k), number in bank.numbers.items() if m == model}
            for row, (experience, index) in enumerate(zip(state.class_experience, places.tolist(), strict=True)):
                for number in range(len(bank.bank)):
                    if number in there:
                        point, images = own.mean[there[number], row], int(own.count[there[number], row])
                    else:
                        to = bank.map((model, experience), number)
                        assert to is not None
                        point, images = to.points(own.mean[experience, row]), int(own.count[experience, row])
                    before = int(count[number, index])
                    if images or not before:  # what is synthesised counts for nothing beside real images
                        share = images / (before + images) if before else 1.0
                        mean[number, index] = torch.lerp(mean[number, index], point, share)
                    count[number, index] = before + images
        common = {**joint.common(states), "class_experience": tuple(of_class), "experiences": len(bank.bank)}
        temperature = joined([state.temperature for state in states])
        return EASEState(**common, bank=bank.bank, prototypes=Prototypes(mean, count), temperature=temperature)

    def _scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        experience = torch.tensor(self.state.class_experience, device=images.device)
        cosines = cosine_scores(self.subspace_features(images, cache), learned(self.state.prototypes).mean)
        values = reweighted(cosines, experience, self.settings.other_subspaces)
        return Scores(values.softmax(-1), probabilities=self.state.probabilities(values))

    def subspace_features(self, images: Tensor, cache: FeatureCache | None = None) -> Tensor:
        """Return the features (T, B, D) of prepared images under every adapter, from `cache` where it has them."""
        served = [shared(self.settings.adapter_kind, stack) for stack in self.state.bank]
        return remembered_under_each(self.extractor, served, images, cache)
