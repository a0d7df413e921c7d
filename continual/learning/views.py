"""What is learned from under a symmetry: single views of images."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.data import Subset

from continual.data.inputs import ExperienceData, Label
from continual.learning.extractor import Extractor, extract
from continual.learning.settings import Settings
from continual.symmetry.base import Symmetry
from continual.symmetry.views import Transformed


def single_views(
    extractor: Extractor, settings: Settings, fitted: Mapping[str, Tensor], data: ExperienceData, *, first: bool
) -> tuple[Extractor, ExperienceData, Mapping[str, Tensor]]:
    """Return what a training asks for features to remember, its data, and what the symmetry has fitted to images.

    What is trained sees one view of an image at a time, at random if `transformed_training` says so. What is remembered
    is every view by itself (`orbit_statistics`), or what the symmetry makes of an image. A symmetry that learns is
    fitted to the images of the `first` experience; `fitted` is what it found then.
    """
    symmetry = extractor.symmetry
    if symmetry is None:
        return extractor, data, fitted
    if first:
        fitted = fit_symmetry(extractor, symmetry, data, settings.eval_batch_size)
    training, evaluation, labels = data.training, data.evaluation, data.labels
    if settings.transformed_training:
        training = Transformed(training, symmetry.group)
    if settings.orbit_statistics:
        seeing = extractor.untransformed
        elements = range(symmetry.group.order)
        each = [image for image in range(len(labels)) for _ in elements]
        labels = [labels[image] for image in each]
        evaluation = Transformed(Subset(evaluation, each), symmetry.group, [*elements] * len(data.labels))
    else:
        seeing = replace(extractor, symmetry=replace(symmetry, fitted=fitted))
    return seeing, ExperienceData(training, evaluation, labels), fitted


def fit_symmetry(extractor: Extractor, symmetry: Symmetry, data: ExperienceData, batch_size: int) -> dict[str, Tensor]:
    """Return what a symmetry has to know of images, from those of the first experience."""
    if not symmetry.learns:
        return {}

    def described(images: Tensor, _: Sequence[Label]) -> Sequence[Tensor]:
        return [extractor.described(symmetry.views(images))]

    (found,), labels = extract(data.evaluation, described, batch_size, extractor.device)
    index = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    return symmetry.fit(found, torch.tensor([index[label] for label in labels], device=extractor.device))
