"""Ridge regression on the frozen features, in closed form: a second's work, and hard to beat."""

from __future__ import annotations

from torch import Tensor

from continual.learning.feature_cache import FeatureCache
from continual.methods.bases.regression import RegressionLearner
from continual.statistics.ridge import Sums, expected_best


class RidgeLearner(RegressionLearner):
    """Ridge regression on the standardised final features: RanPAC without its adapters and projection.

    The strength is the one of least squared error on images that are not learned, as generalised cross-validation tells
    it from the running sums.
    """

    method = "ridge"
    paper = "Hoerl and Kennard, Technometrics 1970"
    summary = "ridge regression on the frozen features, in closed form from running sums"
    any_backbone = True

    def regressors(self, images: Tensor, cache: FeatureCache | None = None) -> Tensor:
        """Return the backbone's own features (B, D)."""
        return self.frozen_features(images, cache)

    def strength(self, sums: Sums) -> float:
        """Return the strength that is expected to be best."""
        return expected_best(sums)
