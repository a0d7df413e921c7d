"""Ridge regression on the frozen features, in closed form: a second's work, and hard to beat."""

from __future__ import annotations

from torch import Tensor

from continual.feature_cache import FeatureCache
from continual.regression import RegressionLearner
from continual.ridge import choose_strength
from continual.seeding import generator


class RidgeLearner(RegressionLearner):
    """Ridge regression on the standardised final features: RanPAC without its adapters and projection.

    The strength is the one of least squared error on a fifth of the newest experience, drawn at random, when solved
    on the rest of it and everything before.
    """

    method = "ridge"
    paper = "Hoerl and Kennard, Technometrics 1970"
    summary = "ridge regression on the frozen features, in closed form from running sums"
    any_backbone = True

    def regressors(self, images: Tensor, cache: FeatureCache | None = None) -> Tensor:
        """Return the backbone's own features (B, D)."""
        return self.frozen_features(images, cache)

    def strength(self, features: Tensor, labels: Tensor, classes: int) -> float:
        """Return the strength chosen on the newest experience."""
        draw = generator(self.settings.seed, "ridge", self.state.updates)
        return choose_strength(self.state.sums, features, labels, classes, standardise=True, generator=draw)
