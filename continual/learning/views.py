"""What a learner with a symmetry learns from: single views of its images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from continual.data.inputs import ExperienceData, Label
from continual.learning.features import extract
from continual.symmetry.base import Symmetry
from continual.symmetry.views import transformed

if TYPE_CHECKING:
    from continual.learning.learner import IncrementalLearner
    from equivariant.groups import FiniteGroup


def single_views(
    learner: IncrementalLearner[Any], data: ExperienceData
) -> tuple[IncrementalLearner[Any], ExperienceData, Mapping[str, Tensor]]:
    """Return the learner that a training asks for features, its data, and what the symmetry has been told of images.

    What is trained sees one view of an image at a time, at random if `turned_training` says so. What is remembered
    is every view by itself (`orbit_statistics`), or what the symmetry makes of an image.
    """
    symmetry, settings, told = learner.symmetry, learner.settings, learner.state.fitted
    if symmetry is None:
        return learner, data, told
    if learner.state.updates == 0:
        told = fitted(learner, data)
    training, evaluation, labels = data.training, data.evaluation, data.labels
    if settings.turned_training:
        training = AnyView(training, symmetry.group)
    if settings.orbit_statistics:
        seeing = learner.variant(group=None)
        evaluation = EveryView(evaluation, symmetry.group)
        labels = [label for label in labels for _ in range(symmetry.group.order)]
    else:
        seeing = learner.variant()
        seeing.state = replace(learner.state, fitted=told)
    return seeing, ExperienceData(training, evaluation, labels), told


def fitted(learner: IncrementalLearner[Any], data: ExperienceData) -> dict[str, Tensor]:
    """Return what a learner's symmetry has to be told of images, from those of its first experience."""
    symmetry: Symmetry | None = learner.symmetry
    if symmetry is None or not symmetry.learns:
        return {}

    def described(images: Tensor, _: Sequence[Label]) -> Sequence[Tensor]:
        return [learner.described(symmetry.views(images))]

    settings, place = learner.settings, learner.device
    (found,), labels = extract(data.evaluation, described, batch_size=settings.eval_batch_size, device=place)
    index = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    return symmetry.fit(found, torch.tensor([index[label] for label in labels], device=place))


@dataclass(frozen=True)
class EveryView(Dataset[Any]):
    """A data set of (image (3, H, W), label, ...) with all views of every image, one after the other."""

    dataset: Any
    group: FiniteGroup

    def __len__(self) -> int:
        return len(self.dataset) * self.group.order

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        image, *rest = self.dataset[index // self.group.order]
        return transformed(self.group, index % self.group.order, image), *rest


@dataclass(frozen=True)
class AnyView(Dataset[Any]):
    """A data set of (image (3, H, W), label, ...) whose images are moved by elements that torch's generator draws."""

    dataset: Any
    group: FiniteGroup

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        image, *rest = self.dataset[index]
        return transformed(self.group, int(torch.randint(self.group.order, ())), image), *rest
