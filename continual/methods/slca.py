"""SLCA: the backbone itself learns, slowly, and the head is aligned on features drawn from class Gaussians."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, Self

import torch
from pydantic import Field
from torch import Tensor, nn

from continual.adapters.base import Weights
from continual.backbones.loading import Backbone
from continual.data.inputs import ExperienceData
from continual.errors import InputError
from continual.learning.answers import Scores
from continual.learning.extractor import Extractor
from continual.learning.feature_cache import FeatureCache
from continual.learning.learner import IncrementalLearner
from continual.learning.porting import Space
from continual.learning.state import JointClasses, Simulation, learned
from continual.learning.training import GradientTraining, Output, Progress, Start
from continual.methods.bases.alignment import (
    AlignedState,
    AlignmentSettings,
    ClassFits,
    aligned_fields,
    drawn_answers,
)
from continual.methods.bases.moved_alignment import joined_fields, ported_fields


class SLCASettings(AlignmentSettings):
    """Numbers of SLCA."""

    batch_size: int = Field(64, ge=1)
    lr: float = Field(0.01, gt=0, description="the head's rate")
    backbone_lr_ratio: float = Field(0.01, gt=0, description="the backbone's rate as a share of lr")
    decay_after: float = Field(0.9, ge=0, le=1, description="share of the epochs after which rates fall to a tenth")
    part: Literal["all", "last_blocks", "norms"] = Field("all", description="what of the backbone learns")
    last_blocks: int = Field(2, ge=1, description="how many blocks learn with part='last_blocks'")
    alignment_epochs: int = Field(5, ge=0)
    alignment_lr: float = Field(0.01, gt=0)
    temperature: float = Field(0.1, gt=0, description="tau, what normalised logits are divided by in alignment")


@dataclass(frozen=True)
class SLCAState(AlignedState):
    """The learned part of the backbone, one head, and class statistics."""

    backbone: Weights | None = None  #: by the ViT's names of its parameters


class SLCATraining(GradientTraining[SLCAState]):
    """Trains a copy of a part of the backbone, and the head on the new classes."""

    def __init__(self, start: Start[SLCAState], data: ExperienceData) -> None:
        begin = start.state.backbone or learnable(start.extractor.backbone, start.settings)
        # A module's parameters have no dots in their names.
        self.copy = nn.ParameterDict({name.replace(".", "/"): w.clone() for name, w in begin.items()})
        super().__init__(start, data, start.state.head, backbone=self.copy)
        if not self.new_classes:
            self.epochs = 0

    def weights(self) -> dict[str, Tensor]:
        """Return the live parameters by the ViT's names."""
        return {name.replace("/", "."): w for name, w in self.copy.items()}

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the backbone at `backbone_lr_ratio * lr` and the head at `lr`."""
        lr = self.settings.lr
        return [
            {"params": list(self.copy.parameters()), "lr": lr * self.settings.backbone_lr_ratio},
            {"params": list(self.head.parameters()), "lr": lr},
        ]

    def make_scheduler(self, optimizer: torch.optim.Optimizer) -> torch.optim.lr_scheduler.LRScheduler:
        """Return a fall to a tenth near the end."""
        return torch.optim.lr_scheduler.MultiStepLR(optimizer, [round(self.epochs * self.settings.decay_after)])

    def forward(self, images: Tensor) -> Output:
        features = self.single.features(images, weights=self.weights())
        return Output(features, self.head(features))

    def finish(self, progress: Progress | None = None) -> SLCAState:
        """Remember the new classes as the backbone sees them now, and align the head."""
        weights = {name: w.detach().clone() for name, w in self.weights().items()}
        fits = ClassFits(self.settings)

        def fold(found: list[Tensor], targets: Tensor) -> list[Tensor]:
            fits.add(found[0], targets)
            return found

        read = partial(self.extractor.features, weights=weights)
        held = self.streamed(lambda images, _: [read(images)], fold, progress, by_class=True)
        experience = torch.tensor(self.class_experience(), device=self.device)
        rescale = partial(normalised_logits, class_experience=experience, temperature=self.settings.temperature)
        return SLCAState(**self.progress_counts(), **aligned_fields(self, fits, held, rescale), backbone=weights)


def normalised_logits(logits: Tensor, class_experience: Tensor, temperature: float = 0.1) -> Tensor:
    """Return logits (B, C) divided by `temperature` times the mean length of their parts.

    A part are the logits of one experience's classes; `class_experience` (C,) int64 in [0, T) says whose they
    are. So no class is preferred for the mere size of its head row (SLCA section 3.3, with the mean over
    experiences of the authors' code).
    """
    count = int(class_experience.max()) + 1
    squares = logits.new_zeros(len(logits), count).index_add(1, class_experience, logits.square())
    # The small sum keeps the root's gradient finite at zero.
    lengths = (squares + 1e-14).sqrt()
    return logits / (lengths.mean(-1, keepdim=True) * temperature)


def learnable(backbone: Backbone, settings: SLCASettings) -> dict[str, Tensor]:
    """Return the backbone's own parameters that learn, by name."""
    vit, part = backbone.frozen.network, settings.part
    if part == "norms":
        kept = {
            f"{place}.{name}".lstrip(".")
            for place, module in vit.named_modules()
            if isinstance(module, nn.LayerNorm)
            for name, _ in module.named_parameters(recurse=False)
        }
    elif part == "last_blocks":
        first = max(backbone.depth - settings.last_blocks, 0)
        places = tuple(f"blocks.{block}." for block in range(first, backbone.depth))
        kept = {name for name, _ in vit.named_parameters() if name.startswith((*places, "norm.", "fc_norm."))}
    else:
        kept = {name for name, _ in vit.named_parameters()}
    return {name: parameter.data for name, parameter in vit.named_parameters() if name in kept}


class SLCALearner(IncrementalLearner[SLCAState]):
    """A slow learner with classifier alignment; the only method here whose features change.

    The backbone given stays as it is: what has learned of it (`part`: all, the last blocks or the norms) is part of the
    state, and of the file. Statistics of old classes are those of the time they were learned, as published: the more
    the backbone has changed since, the more the aligned head favours new classes. With the published rates, DINOv2
    changes much, nearly all the gradient being the patch embedding's; `part="last_blocks"` leaves that alone, whatever
    the number of blocks. Memory is that part of the backbone, and by default D^2 + 2 D + 1 numbers per class.
    """

    method = "slca"
    paper = "Zhang et al., ICCV 2023, arXiv 2303.05118"
    summary = "the backbone (all, last blocks or norms) learns at a hundredth of the head's rate; the head is aligned"
    settings_type = SLCASettings
    state_type = SLCAState
    unportable = None
    unmergeable = None
    keeps_answers = True
    suppresses = True

    def concept_features(self, images: Tensor) -> Sequence[Tensor]:
        return [self.extractor.features(images, weights=self.state.backbone)]

    def begin(self, data: ExperienceData) -> SLCATraining:
        return SLCATraining(self.start, data)

    @property
    def adapted(self) -> bool:
        return True

    def moved_weights(self, backbone: Backbone) -> SLCAState:
        """Add to the new backbone what was learned on top of the old one; raises InputError for other shapes."""
        old, new = (dict(one.frozen.network.named_parameters()) for one in (self.backbone, backbone))
        mine = learned(self.state.backbone)
        if odd := [name for name in mine if name not in new or new[name].shape != mine[name].shape]:
            raise InputError(
                f"slca has trained {odd[0]}, which {backbone.name} has not in the same shape: only the same "
                "architecture, at the same image size, can take what was learned of it"
            )
        moved = {name: new[name].data + (own - old[name].data) for name, own in mine.items()}
        return replace(self.state, backbone=moved)

    def remembered_features(self, extractor: Extractor, images: Tensor) -> Sequence[Tensor]:
        return [extractor.features(images, weights=self.state.backbone)]

    def ported(self, target: Self, spaces: Sequence[Space], keep_answers: float) -> SLCAState:
        state, own = target.state, self.settings
        experience = torch.tensor(state.class_experience, device=self.device)
        rescale = partial(normalised_logits, class_experience=experience, temperature=own.temperature)
        places = [0] * len(state.classes)
        return replace(state, **ported_fields(own, state, spaces, places, keep_answers, rescale))

    def common_weights(self) -> tuple[Weights, Weights] | None:
        mine = learned(self.state.backbone)
        own = dict(self.backbone.frozen.network.named_parameters())
        return mine, {name: own[name].data for name in mine}

    def with_weights(self, weights: Weights) -> SLCAState:
        return replace(self.state, backbone=weights)

    def joined(self, states: Sequence[SLCAState], joint: JointClasses) -> SLCAState:
        """Join what is remembered of every class, and align the heads' rows again as one head."""
        common = joint.common(states)
        experience = torch.tensor(joint.class_experience, device=self.device)
        rescale = partial(normalised_logits, class_experience=experience, temperature=self.settings.temperature)
        statistics = [state.statistics for state in states]
        fields = joined_fields(self.settings, states, joint, statistics, common["updates"], rescale)
        return replace(states[0], **common, **fields)

    def port_simulation(self, after: Self, spaces: Sequence[Space]) -> Simulation:
        return drawn_answers(self.settings, self.state, after.state, spaces, [0] * len(self.classes))

    def _scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        """Return the softmax of the head's logits; nothing can be taken from `cache`, as the weights change."""
        state = self.state
        features = self.extractor.features(images, weights=state.backbone)
        head = state.heeding
        values = head(features).softmax(-1)
        probabilities, p_value = state.judged(self.settings, values, features, lambda x, _: head(x).softmax(-1))
        return Scores(values, probabilities=probabilities, p_value=p_value)
