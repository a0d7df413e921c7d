"""Ridge regression on the frozen features, in closed form: a second's work, and hard to beat."""

from torch import Tensor

from continual.learning.extractor import Extractor
from continual.learning.feature_cache import FeatureCache
from continual.methods.bases.regression import RegressionLearner
from continual.statistics.ridge import GramStatistics, expected_best


class RidgeLearner(RegressionLearner):
    """Ridge regression on the standardised final features: RanPAC without its adapters and projection.

    The penalty is the one of least squared error on images that are not learned, which generalised cross-validation
    estimates from the running sums.
    """

    method = "ridge"
    paper = "Hoerl and Kennard, Technometrics 1970"
    summary = "ridge regression on the frozen features, in closed form from running sums"
    any_backbone = True

    def design_features(self, extractor: Extractor, images: Tensor, cache: FeatureCache | None = None) -> Tensor:
        """Return the backbone's own features (B, D)."""
        return extractor.frozen_features(images, cache)

    def penalty(self, sums: GramStatistics) -> float:
        """Return the penalty that is expected to be best."""
        return expected_best(sums)
