"""FeCAM: Mahalanobis distance to class means, under a covariance of each class's own; nothing is trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor

from continual.data.inputs import ExperienceData
from continual.learning.answers import Scores
from continual.learning.feature_cache import FeatureCache
from continual.learning.learner import IncrementalLearner
from continual.learning.settings import Settings
from continual.learning.state import JointClasses, State
from continual.learning.training import Progress, Training
from continual.statistics.class_statistics import ClassStatistics, fit, of_each_class
from continual.statistics.fields import per_class


class FeCAMSettings(Settings):
    """Numbers of FeCAM, as its authors have them for a ViT on CIFAR-100; on ImageNet-R they took 10 and 10."""

    shrinkage: float = Field(1.0, ge=0, description="gamma 1: of the mean variance, added to every variance")
    off_diagonal_shrinkage: float = Field(
        0.0, description="gamma 2: of the mean covariance, added to every covariance; at most shrinkage"
    )
    pooled: bool = Field(False, description="one covariance for all classes, the mean of theirs")

    @model_validator(mode="after")
    def _semidefinite(self) -> FeCAMSettings:
        if not 0 <= self.off_diagonal_shrinkage <= self.shrinkage:
            raise ValueError("off_diagonal_shrinkage is from 0 to shrinkage: beyond, distances would be negative")
        return self


@dataclass(frozen=True)
class FeCAMState(State):
    """Mean and covariance of each class's frozen features, of length 1."""

    statistics: tuple[ClassStatistics, ...] = per_class(default=())

    @cached_property
    def metrics(self) -> dict[tuple[float, float, bool], Tensor]:
        """What distances are measured by, (C, D, D) or (1, D, D), by settings; filled when first asked for."""
        return {}

    def metric(self, own: FeCAMSettings) -> Tensor:
        """Return the inverses of the shrunk and normalised covariances."""
        key = own.shrinkage, own.off_diagonal_shrinkage, own.pooled
        if key not in self.metrics:
            covariances = torch.stack([one.covariance_matrix() for one in self.statistics]).cpu().double()
            covariances = covariances.mean(0, keepdim=True) if own.pooled else covariances
            inverse = torch.linalg.pinv(normalised(shrunk(covariances, *key[:2])), rtol=1e-6, hermitian=True)
            self.metrics[key] = inverse.to(self.statistics[0].mean)
        return self.metrics[key]


def shrunk(covariances: Tensor, first: float, second: float) -> Tensor:
    """Return S + g1 d I + g2 o (1 1^T - I) for covariances S (C, D, D) (FeCAM equation 7).

    d is the mean of S's diagonal, and o that of its other entries that are not 0.
    """
    diagonal = covariances.diagonal(dim1=-2, dim2=-1)
    others = covariances - torch.diag_embed(diagonal)
    mean = others.sum((-2, -1)) / (others != 0).sum((-2, -1)).clamp(min=1)
    unit = torch.eye(covariances.shape[-1]).to(covariances)
    return covariances + first * diagonal.mean(-1)[:, None, None] * unit + second * mean[:, None, None] * (1 - unit)


def normalised(covariances: Tensor) -> Tensor:
    """Return S_ij / sqrt(S_ii S_jj) (FeCAM equation 8); the unit matrix for a class of a single image."""
    deviation = covariances.diagonal(dim1=-2, dim2=-1).sqrt()
    found = covariances / (deviation[..., None] * deviation[..., None, :]).clamp(min=1e-30)
    nothing = (deviation == 0)[..., None] & torch.eye(covariances.shape[-1], dtype=torch.bool)
    return found.masked_fill(nothing, 1.0)


class FeCAMUpdate(Training[FeCAMState]):
    """Adds an experience's images to the statistics of their classes."""

    def finish(self, progress: Progress | None = None) -> FeCAMState:
        found: dict[int, ClassStatistics] = dict(enumerate(self.before.statistics))

        def fold(columns: list[Tensor], targets: Tensor) -> list[Tensor]:
            for target, rows in of_each_class(columns[0], targets):
                new = fit(rows, "full")
                found[target] = found[target].merged(new) if target in found else new
            return columns

        read = self.extractor.features
        self.streamed(lambda images, _: [F.normalize(read(images), dim=-1)], fold, progress, by_class=True)
        return FeCAMState(**self.progress_counts(), statistics=tuple(found[k] for k in range(len(self.classes))))


class FeCAMLearner(IncrementalLearner[FeCAMState]):
    """Nearest class mean under each class's own covariance, shrunk and normalised.

    Memory is D^2 + D + 1 numbers per class. As its published script for a ViT: features of length 1, without Tukey's
    transform, means that are not brought to length 1 again, and neither a determinant nor a prior. The distance says
    nothing of how often such an answer is right.
    """

    method = "fecam"
    paper = "Goswami et al., NeurIPS 2023, arXiv 2309.14062"
    summary = "Mahalanobis distance to class means of the frozen features; trains nothing"
    any_backbone = True
    probabilities = False
    fixed_features = True
    settings_type = FeCAMSettings
    state_type = FeCAMState
    unportable = "its covariances are of features of length 1, which a linear map does not keep"
    unmergeable = None

    def begin(self, data: ExperienceData) -> FeCAMUpdate:
        return FeCAMUpdate(self.start, data)

    def joined(self, states: Sequence[FeCAMState], joint: JointClasses) -> FeCAMState:
        found: dict[int, ClassStatistics] = {}
        for state, places in zip(states, joint.places, strict=True):
            for own, place in zip(state.statistics, places.tolist(), strict=True):
                found[place] = found[place].merged(own) if place in found else own
        return FeCAMState(**joint.common(states), statistics=tuple(found[k] for k in range(len(joint.classes))))

    def _scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        features = F.normalize(self.extractor.frozen_features(images, cache), dim=-1)
        means, metric = torch.stack([own.mean for own in self.state.statistics]), self.state.metric(self.settings)
        # (z - m) M (z - m)^T, class by class: all differences at once would be B x C x D numbers.
        metrics = metric.expand(len(means), -1, -1)
        apart = [features - mean for mean in means]
        distances = [((rows @ own) * rows).sum(-1) for rows, own in zip(apart, metrics, strict=True)]
        return Scores((-torch.stack(distances, -1)).softmax(-1))
