"""Strata: ridge regression on what several blocks say of an image and of its mirror image. Nothing is trained."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from continual.adapters.base import Adapters
from continual.backbones.loading import Backbone
from continual.data.inputs import ExperienceData
from continual.learning.extractor import Extractor
from continual.learning.feature_cache import FeatureCache, cached
from continual.methods.bases.regression import RegressionLearner
from continual.methods.bases.regression_update import RegressionUpdate
from continual.methods.bases.text_prior import Place, TextPriorSettings
from continual.statistics.ridge import GramStatistics
from continual.symmetry.base import Symmetry
from continual.symmetry.choice import AUTO
from continual.symmetry.views import group_named


def has_mirrors(symmetry: Symmetry | None) -> bool:
    """Return whether a symmetry makes the same features of an image and its mirror image."""
    if symmetry is None or not symmetry.invariant or symmetry.averages_scores:
        return False
    return {*group_named("mirror_h").elements} <= {*symmetry.group.elements}


class StrataSettings(TextPriorSettings):
    """Numbers of strata. `blocks = 1, patches = False, mirror = False` is `ridge`, except for the last norm's gain."""

    # What LayUP reads (TMLR 2024): class tokens of the last six blocks, of the image alone.
    presets: ClassVar[dict[str, dict[str, Any]]] = {
        "layup": {"blocks": 6, "patches": False, "mirror": False, "answer_views": 1, "balance": 0.0},
    }
    renamed: ClassVar[Mapping[str, str]] = {**TextPriorSettings.renamed, "strength": "penalty"}
    at_inference = TextPriorSettings.at_inference | {"answer_views"}
    before: ClassVar[Mapping[str, Any]] = {**TextPriorSettings.before, "mirror_as": "mean"}

    blocks: int = Field(4, ge=1, description="how many last blocks, or stages of a CNN, are read; all, if fewer")
    patches: bool = Field(True, description="read patch tokens, or stages: means beside class token or features")
    penalty: float = Field(1 / 3, gt=0, description="of the ridge, for each number that is read")
    mirror: bool = Field(True, description="learn every image's mirror image as well")
    mirror_as: Literal["sample", "mean"] = Field(
        "sample", description="a mirror image is a sample of its own, or the mean of both tokens is learned"
    )
    answer_views: Literal[1, 2] = Field(
        2, description="answer from the image alone, or with its mirror image: a second forward pass"
    )


class StrataLearner(RegressionLearner):
    """Ridge regression on the tokens of the last blocks, of an image and its mirror image.

    For each of the last K blocks: the class token and the mean of the patch tokens, each token brought to mean 0 and
    deviation 1 first. A block's tokens come with the pass that is run anyway. Image and mirror image are learned as two
    samples that weigh as one; asked about is the image, or the mean of both (`answer_views`), which may be changed at
    any time. As the features are frozen and nothing is chosen on an experience, the answers are those of one regression
    on all images so far, in whatever order and experiences they came. D' is 2 K D, and half of it without patches.

    On a CNN: its features, and the means of its last K stages' maps (`FrozenConvNet.block_tokens`); without patches,
    the features alone.
    """

    method = "strata"
    paper = "none: this library; after the linear probes of DINOv2 (Oquab et al., TMLR 2024, arXiv 2304.07193)"
    summary = "ridge regression on tokens of several frozen blocks, of an image and its mirror image"
    any_backbone = True
    settings_type = StrataSettings
    settings: StrataSettings
    adapters: Adapters | None = None  #: under which tokens are read; `mos` sets them

    def begin(self, data: ExperienceData) -> RegressionUpdate:
        readings = torch.tensor([[1.0, 0.0], [0.5, 0.5]]) if self._samples else None
        read, prior = self.learned_features, self.text_directions
        return RegressionUpdate(self.start, data, read, self.solved, readings, self.reading, prior)

    def design_features(self, extractor: Extractor, images: Tensor, cache: FeatureCache | None = None) -> Tensor:
        """Return the tokens that are read, side by side (B, D')."""
        own = self.settings
        return self._mean(extractor, images, cache, mirrored=self.mirrored and own.answer_views == 2)

    def view_features(self, extractor: Extractor, images: Tensor) -> Tensor:
        """Return the tokens of views, and of their mirror images unless these are among the views."""
        return self._mean(extractor, images, None, mirrored=self.view_passes[1] == 2)

    @property
    def view_passes(self) -> tuple[int, int]:
        twice, among = self.mirrored and self.settings.answer_views == 2, has_mirrors(self.symmetry)
        return 2 if twice and not among else 1, 2 if twice and not (among and self._samples) else 1

    @property
    def view_reading(self) -> int:
        return self.view_passes[1] - 1 if self._samples else self.reading

    def learned_features(self, extractor: Extractor, images: Tensor) -> Sequence[Tensor]:
        if self._samples:
            return [self._tokens(extractor, images, mirrored, None) for mirrored in (False, True)]
        return [self._mean(extractor, images, None, mirrored=self.mirrored)]

    def text_place(self, part: Backbone) -> Place:
        """Return where the last class token is; on a CNN, which has none, it is of no use."""
        own = self.settings
        width = part.frozen.block_tokens(part.frozen.probe(), own.blocks, patches=own.patches).shape[1]
        return Place(max(0, width - part.width * (1 + own.patches)), width, gain=True)

    @property
    def mirrored(self) -> bool:
        """Whether the mirror image is looked at as well: not if `group="auto"` took all views, it is among them."""
        return self.settings.mirror and not (self.settings.group == AUTO and self.symmetry is not None)

    def penalty(self, sums: GramStatistics) -> float:
        """Return the penalty of the settings, times D'."""
        return self.settings.penalty * len(sums.total)

    @property
    def reading(self) -> int:
        # With mirrors in the group a view is looked at without its mirror image, which is a view of its own.
        return 0 if has_mirrors(self.symmetry) else self.settings.answer_views - 1

    @property
    def _samples(self) -> bool:
        return self.mirrored and self.settings.mirror_as == "sample"

    def _mean(self, extractor: Extractor, images: Tensor, cache: FeatureCache | None, *, mirrored: bool) -> Tensor:
        # With mirrors in the group, the views of a mirror image are those of the image, in the same order.
        views = (False, True) if mirrored and not has_mirrors(extractor.symmetry) else (False,)
        return torch.stack([self._tokens(extractor, images, view, cache) for view in views]).mean(0)

    def _tokens(self, extractor: Extractor, images: Tensor, mirrored: bool, cache: FeatureCache | None) -> Tensor:
        own = self.settings
        read = partial(extractor.block_tokens, blocks=own.blocks, patches=own.patches, adapters=self.adapters)
        name = ("strata", own.blocks, own.patches, mirrored, self.adapters is not None)
        return cached(cache, images, name, lambda rows: read(rows.flip(-1) if mirrored else rows))
