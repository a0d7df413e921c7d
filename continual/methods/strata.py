"""Strata: ridge regression on what several blocks say of an image and of its mirror image. Nothing is trained."""

from collections.abc import Mapping
from functools import partial
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from continual.learning.extractor import Extractor
from continual.learning.feature_cache import FeatureCache, cached
from continual.methods.bases.regression import RegressionLearner, RegressionSettings
from continual.statistics.ridge import GramStatistics


class StrataSettings(RegressionSettings):
    """Numbers of strata. `blocks = 1, patches = False, mirror = False` is `ridge`, but for the last norm's gain."""

    renamed: ClassVar[Mapping[str, str]] = {**RegressionSettings.renamed, "strength": "penalty"}

    blocks: int = Field(4, ge=1, description="how many last blocks, or stages of a CNN, are read; all, if fewer")
    patches: bool = Field(True, description="read patch tokens, or stages: means beside class token or features")
    penalty: float = Field(1 / 3, gt=0, description="of the ridge, for each number that is read")
    mirror: bool = Field(True, description="average over the image and its mirror image: a second forward pass")


class StrataLearner(RegressionLearner):
    """Ridge regression on the tokens of the last blocks, averaged over an image and its mirror image.

    For each of the last K blocks: the class token and the mean of the patch tokens, each token brought to mean 0 and
    deviation 1 first. A block's tokens come with the pass that is run anyway; the mirror image takes a second one.
    As the features are frozen and nothing is chosen on an experience, the answers are those of one regression on all
    images so far, in whatever order and experiences they came. D' is 2 K D, and half of it without patches.

    On a CNN: its features, and the means of its last K stages' maps (`FrozenConvNet.block_tokens`); without patches,
    the features alone.
    """

    method = "strata"
    paper = "none: this library; after the linear probes of DINOv2 (Oquab et al., TMLR 2024, arXiv 2304.07193)"
    summary = "ridge regression on tokens of several frozen blocks, of an image and its mirror image"
    any_backbone = True
    settings_type = StrataSettings
    settings: StrataSettings

    def design_features(self, extractor: Extractor, images: Tensor, cache: FeatureCache | None = None) -> Tensor:
        """Return the tokens that are read, side by side (B, D')."""
        name = ("strata", self.settings.blocks, self.settings.patches, self.settings.mirror)
        return cached(cache, images, name, partial(self._read, extractor))

    def penalty(self, sums: GramStatistics) -> float:
        """Return the penalty of the settings, times D'."""
        return self.settings.penalty * len(sums.total)

    def _read(self, extractor: Extractor, images: Tensor) -> Tensor:
        own = self.settings
        views = [images, images.flip(-1)] if own.mirror else [images]
        return torch.stack([extractor.block_tokens(view, own.blocks, patches=own.patches) for view in views]).mean(0)
