"""TUNA: task-specific and universal adapters (ICCV 2025, arXiv 2508.08165).

One adapter is trained on after the other under a cosine head; a copy of each stays, and all of them are fused number by
number into a universal one. An image is answered by the adapter under which the head is most certain, and by the
universal one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import ClassVar, Literal, Self

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from continual.adapters.bank import completed, serve, shared, stacked
from continual.adapters.base import Weights
from continual.data.inputs import ExperienceData, Label
from continual.learning.answers import Scores
from continual.learning.extractor import Extractor
from continual.learning.feature_cache import FeatureCache, cached
from continual.learning.joining import Meeting
from continual.learning.learner import IncrementalLearner
from continual.learning.porting import Space
from continual.learning.settings import AdapterSettings
from continual.learning.state import JointClasses, Simulation, learned
from continual.learning.training import Output, Progress, Start, label_indices
from continual.merging.base import merged
from continual.methods.bases.adapter_training import AdapterTraining, CosineLogits
from continual.methods.bases.alignment import AlignedState, AlignmentSettings, ClassFits, aligned_fields, drawn_answers
from continual.methods.bases.every_adapter import remembered_under_each, under_each
from continual.methods.bases.joint_bank import JointBank
from continual.methods.bases.moved_alignment import joined_fields, ported_fields
from continual.statistics.head import CosineHead


class TUNASettings(AdapterSettings, AlignmentSettings):
    """Numbers of TUNA, as its paper's text has them."""

    at_inference: ClassVar[frozenset[str]] = AdapterSettings.at_inference | {"universal"}
    at_training: ClassVar[frozenset[str]] = AdapterSettings.at_training | AlignmentSettings.at_training

    lr: float = Field(0.01, gt=0, description="peak rate of the adapters")
    head_lr_ratio: float = Field(1.0, gt=0, description="the head's rate as a share of lr")
    sharpness: float = Field(20.0, gt=0, description="s, what cosines are multiplied by")
    margin: float = Field(0.0, ge=0, lt=1, description="m, taken from the cosine of an image's own class in training")
    orthogonality: float = Field(
        0.001, ge=0, description="rho, of bottlenecks: holds mean rows of up-projections orthogonal to earlier ones"
    )
    universal: Literal["fused", "newest", "none"] = Field(
        "fused", description="answers with the most certain adapter: all fused, the newest (as published), or nothing"
    )


@dataclass(frozen=True)
class TUNAState(AlignedState):
    """Finished adapters, a cosine head, and class statistics, each under its class's own adapter."""

    head: CosineHead | None = None
    bank: tuple[Weights, ...] = ()

    def check_shapes(self) -> None:
        """Raise ValueError, also where adapters are not of one shape."""
        super().check_shapes()
        for own in self.bank[1:]:
            if odd := [name for name, tensor in own.items() if tensor.shape != self.bank[0][name].shape]:
                raise ValueError(f"adapters differ in the shape of {odd[0]}")

    @cached_property
    def fused(self) -> Weights:
        """The universal adapter."""
        return merged("elect", self.bank, only=self.bank[-1].keys())


class TUNATraining(AdapterTraining[TUNAState]):
    """Trains the adapter on from the newest one, under a cosine head with a margin."""

    settings: TUNASettings

    def __init__(self, start: Start[TUNAState], data: ExperienceData) -> None:
        bank = start.state.bank
        fixed = start.settings.adapter_kind.reading if bank else ()
        super().__init__(start, data, completed(bank)[-1] if bank else None, start.state.head, fixed=fixed)
        head = CosineLogits(self.head.weight, self.settings.sharpness).to(self.device)
        self.head = self.modules["head"] = head  # type: ignore[assignment]
        self.directions = [mean_rows(stack["up_weight"]) for stack in bank if "up_weight" in stack]
        self.epochs = self.epochs if self.new_classes else 0

    def loss(self, output: Output, labels: Sequence[Label]) -> Tensor:
        """Return CosFace's loss over the new classes, s (cos - m) for the own one, and what holds adapters apart."""
        own = self.settings
        if own.margin:
            targets = label_indices(labels, self.index).to(output.logits.device)
            taken = own.sharpness * own.margin * F.one_hot(targets, len(self.classes))
            output = replace(output, logits=output.logits - taken)
        loss = super().loss(output, labels)
        if not self.directions or not own.orthogonality:
            return loss
        mine = mean_rows(dict(self.adapter.named_parameters())["up_weight"])
        weight = own.orthogonality * math.exp(-self.before.experiences - 1)
        return loss + weight * alignment_of(mine, torch.stack(self.directions))

    def frozen_head(self) -> CosineHead:
        weight = self.head.weight.detach().clone()
        return CosineHead(weight, weight.new_zeros(len(weight)), self.settings.sharpness)

    def finish(self, progress: Progress | None = None) -> TUNAState:
        """Keep the adapter, remember the classes under it, align the head."""
        before, kind, extractor = self.before, self.settings.adapter_kind, self.extractor
        bank = (*before.bank, self.adapter.frozen()) if self.new_classes else before.bank
        every, fits = stacked(bank), ClassFits(self.settings)
        experience = torch.tensor(self.class_experience(), device=self.device)

        def read(images: Tensor, labels: Sequence[Label]) -> list[Tensor]:
            chosen = experience[[self.index[label] for label in labels]]
            return [serve(kind, extractor.features, extractor.stem(images, reads=kind.reads), every, chosen)]

        def fold(found: list[Tensor], targets: Tensor) -> list[Tensor]:
            fits.add(found[0], targets)
            return found

        held = self.streamed(read, fold, progress, by_class=True)
        return TUNAState(**self.progress_counts(), **aligned_fields(self, fits, held), bank=bank)


def mean_rows(up: Tensor) -> Tensor:
    """Return, for up-projections (L, D, r), the mean of their rows, each brought to length 1: (L, r)."""
    return F.normalize(up, dim=-1).mean(1)


def alignment_of(mine: Tensor, others: Tensor) -> Tensor:
    """Return how far mean rows (L, r) are from orthogonal to those of other adapters (k, L, r).

    That is the sum over adapters of the mean over blocks of |mean of all entries of U U_k^T|, of rows of length 1,
    without the D x D entries: the mean of all products is the product of the means.
    """
    return (mine * others).sum(-1).abs().mean(-1).sum()


def most_certain(answers: Tensor) -> Tensor:
    """Return which of T answers (T, B, C), probabilities, has the least entropy, (B,) int64.

    The first of those that are alike to rounding, so that it does not depend on the batch.
    """
    entropies = -(answers * (answers + 1e-10).log()).sum(-1)
    alike = entropies <= entropies.amin(0) + 1e-5
    return torch.where(alike, torch.arange(len(answers), device=answers.device)[:, None], len(answers)).amin(0)


class TUNALearner(IncrementalLearner[TUNAState]):
    """Task-specific and universal adapters: the most certain one answers, together with all of them fused.

    An image is run once per adapter, and once more; the embedding and the first block's attention are shared. Memory
    grows by one adapter, L (2 r D + r + D) numbers, per experience, and by D numbers and the statistics' own per class.

    Follows the published code where the paper does otherwise: the adapter of an experience begins as the one before,
    not from scratch. In that code the fused adapter is never asked: the newest one is, `universal = "newest"`. What of
    it is left out: that stored adapters shrink by weight decay where `orthogonality` is on, and the scale of means in
    alignment, whose sign is wrong there. The weight of `orthogonality` falls as e^-b and is next to nothing.
    """

    method = "tuna"
    paper = "Wang et al., ICCV 2025, arXiv 2508.08165"
    summary = "one adapter per experience; the one whose answer is most certain, and all of them fused, answer"
    settings_type = TUNASettings
    state_type = TUNAState
    learns_unlabelled = True
    settings: TUNASettings
    unportable = None
    unmergeable = None
    keeps_answers = True
    keeps_every_adapter = True

    def begin(self, data: ExperienceData) -> TUNATraining:
        return TUNATraining(self.start, data)

    @property
    def adapted(self) -> bool:
        return True

    def remembered_features(self, extractor: Extractor, images: Tensor) -> Sequence[Tensor]:
        return under_each(extractor, [shared(self.settings.adapter_kind, own) for own in self._bank], images)

    def ported(self, target: Self, spaces: Sequence[Space], keep_answers: float) -> TUNAState:
        """Copy the adapters, map what is remembered under each by its own map, and align the head again."""
        state = target.state
        fields = ported_fields(self.settings, state, spaces, state.class_experience, keep_answers)
        return replace(state, **fields)

    def port_simulation(self, after: Self, spaces: Sequence[Space]) -> Simulation:
        return drawn_answers(self.settings, self.state, after.state, spaces, self.state.class_experience)

    def joined_apart(self, states: Sequence[TUNAState], joint: JointClasses, meeting: Meeting) -> TUNAState:
        """Keep every adapter, join what is remembered of every class, and align the heads' rows as one head."""
        bank = JointBank.of([state.bank for state in states], joint, meeting, self.settings.adapter_kind.reading)
        common = joint.common(states)
        common |= {"class_experience": tuple(bank.numbers[o] for o in joint.origins), "experiences": len(bank.bank)}
        statistics = bank.statistics(states, joint)
        fields = joined_fields(self.settings, states, joint, statistics, common["updates"])
        return replace(states[0], **common, **fields, bank=bank.bank)

    def _scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        state, kind, which = self.state, self.settings.adapter_kind, self.settings.universal
        head, served = learned(state.head), [shared(kind, own) for own in self._bank]
        features = remembered_under_each(self.extractor, served, images, cache)
        answers = head(features).softmax(-1)
        chosen = most_certain(answers)
        own = F.one_hot(chosen, len(served)).mT[..., None]
        values, last = (own * answers).sum(0), (own * features).sum(0)
        if which == "fused" and len(served) > 1:
            extractor, fused = self.extractor, shared(kind, {**state.bank[0], **state.fused})
            name = ("fused", state.experiences)
            under = cached(cache, images, name, lambda rows: extractor.features(rows, fused))
            values = (values + head(under).softmax(-1)) / 2
        elif which == "newest" and len(served) > 1:
            values = (values + answers[-1]) / 2
        judged = state.judged(self.settings, values, last, lambda drawn, _: head(drawn).softmax(-1))
        # What the first adapter alone would choose, as in MOS, is beside the choice, and whether that is another.
        first = torch.tensor(state.class_experience, device=images.device)[answers[0].argmax(-1)]
        return Scores(values, chosen, first, (first != chosen).long(), *judged)

    @property
    def _bank(self) -> list[dict[str, Tensor]]:
        return completed(self.state.bank)
