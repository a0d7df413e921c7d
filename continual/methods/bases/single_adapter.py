"""Methods that answer with one adapter and one head, whatever these were trained on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, TypeVar

from torch import Tensor

from continual.adapters.bank import shared
from continual.adapters.base import Weights
from continual.learning.answers import Scores
from continual.learning.feature_cache import FeatureCache
from continual.learning.learner import IncrementalLearner
from continual.learning.settings import AdapterSettings, Settings
from continual.learning.state import State
from continual.statistics.head import Head


@dataclass(frozen=True)
class SingleAdapterState(State):
    """One adapter and one head."""

    stack: Weights | None = None
    head: Head | None = None


A = TypeVar("A", bound=SingleAdapterState)


class SingleAdapterLearner(IncrementalLearner[A]):
    """Predicts with one adapter and one head."""

    correctable = False
    settings_type: ClassVar[type[Settings]] = AdapterSettings

    def _scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        """Return the softmax of the head's logits."""
        assert self.state.stack is not None
        assert self.state.head is not None
        features = self.extractor.features(images, shared(self.settings.adapter_kind, self.state.stack))
        return Scores(self.state.head(features).softmax(-1))
