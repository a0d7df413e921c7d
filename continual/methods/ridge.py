"""Ridge regression on the frozen features, in closed form: a second's work, and hard to beat."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Self

from torch import Tensor

from continual.learning.extractor import Extractor
from continual.learning.feature_cache import FeatureCache
from continual.learning.porting import Space
from continual.learning.state import learned
from continual.methods.bases.regression import RegressionLearner
from continual.methods.bases.regression_update import RegressionState
from continual.statistics.prior import Prior
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

    def ported(self, target: Self, spaces: Sequence[Space], keep_answers: float) -> RegressionState:
        """Map the sums, and solve with the old penalty, in its share of the images, now and later.

        What a map leaves unexplained is in the mapped products, but not in their sums with labels: cross-validation
        would take the labels for far too hard, and the penalty many times too strong.
        """
        state, sums = self.current, learned(self.state.sums)
        penalty = self.penalty(sums.balanced(self.settings.balance)) if state.penalty is None else state.penalty
        target.state = replace(target.state, penalty_share=penalty / float(sums.counts.sum()))
        return super().ported(target, spaces, keep_answers)

    def penalty(self, sums: GramStatistics) -> float:
        """Return the penalty that is expected to be best."""
        return expected_best(sums)

    def penalty_beside(self, prior: Prior, sums: GramStatistics) -> float:
        """Return the penalty that is expected to be best for what the prior leaves."""
        return prior.expected_best(sums)
