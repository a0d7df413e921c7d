"""Methods that train one adapter on the first experience only, and then remember features in closed form."""

from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from pydantic import Field
from torch import Tensor

from continual.adapters.bank import shared
from continual.adapters.base import Weights
from continual.data.inputs import ExperienceData
from continual.learning.extractor import Extractor
from continual.learning.feature_cache import FeatureCache, cached
from continual.learning.learner import IncrementalLearner
from continual.learning.settings import AdapterSettings
from continual.learning.state import State
from continual.learning.training import Start
from continual.methods.bases.adapter_training import PrototypeAdapterTraining, beginning


class FirstAdapterSettings(AdapterSettings):
    """Adapter training on the first experience, with the numbers of the authors' toolbox for CIFAR-100.

    The adapter is wider than MOS's, as there is one only, and learns at the temporary head's rate.
    """

    lr: float = Field(0.01, gt=0, description="peak rate of the adapter")
    head_lr_ratio: float = Field(1.0, gt=0, description="the temporary head's rate as a share of lr")
    bottleneck: int = Field(64, ge=1, description="r, the width of a bottleneck adapter")


@dataclass(frozen=True)
class FirstAdapterState(State):
    """The adapter of the first experience, with no weights in it if none was trained."""

    stack: Weights | None = None


F = TypeVar("F", bound=FirstAdapterState)


class FirstAdapterLearner(IncrementalLearner[F]):
    """Answers under the adapter of the first experience."""

    unmergeable = None

    def common_weights(self) -> tuple[Weights, Weights] | None:
        stack = self.state.stack
        return (stack, beginning(self.settings, self.backbone, stack)) if stack else None

    def with_weights(self, weights: Weights) -> F:
        return replace(self.state, stack=weights)


class FirstAdapterTraining(PrototypeAdapterTraining[F]):
    """Trains in the first experience; later ones only add to what is remembered."""

    def __init__(self, start: Start[F], data: ExperienceData) -> None:
        super().__init__(start, data, start.state.stack)
        if self.before.stack is not None:
            self.epochs = 0

    def frozen_adapter(self) -> Weights:
        """Return the first experience's adapter, as it is kept."""
        return self.before.stack or self.adapter.frozen()


def adapted_features(
    extractor: Extractor, settings: AdapterSettings, stack: Weights, images: Tensor, cache: FeatureCache | None = None
) -> Tensor:
    """Return features (B, D) under the first adapter, from `cache` where it has them."""
    adapters = shared(settings.adapter_kind, stack) if stack else None
    return cached(cache, images, "first stack", partial(extractor.features, adapters=adapters))
