"""Feature contrast: pushes features apart, of the published code of MOS (AAAI 2025, arXiv 2412.09441)."""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from pydantic import Field, PrivateAttr
from torch import Tensor

from continual.losses.base import Batch, LossTerm


class FeatureContrast(LossTerm):
    """Features of a batch and means of earlier classes are pushed apart; see `feature_contrast`."""

    name: ClassVar[str] = "feature_contrast"
    temperature: float = Field(0.8, gt=0, description="of the similarities' softmax")
    _means: Tensor | None = PrivateAttr(None)

    def prepare(self, training: Any) -> None:
        """Take the means of the classes of which the learner keeps statistics."""
        statistics = getattr(training.before, "statistics", ())
        self._means = torch.stack([one.mean for one in statistics]) if statistics else None

    def __call__(self, batch: Batch) -> Tensor:
        return feature_contrast(batch.features, self._means, self.temperature)


def feature_contrast(features: Tensor, class_means: Tensor | None, temperature: float = 0.8) -> Tensor:
    """Push the rows of `M = [class means; features]` away from one another.

    `S = M M^T / temperature`, and the loss is CE(S, arange(rows)): each row should be most like itself.
    It is in MOS's published code, not in the paper's text. Shapes: features (B, D), class means (K, D)
    of earlier experiences or None. Scalar result.
    """
    rows = features if class_means is None else torch.cat([class_means, features])
    similarity = rows @ rows.mT / temperature
    return F.cross_entropy(similarity, torch.arange(len(rows), device=rows.device))
