"""Methods that train one adapter stack on the first experience only, and then remember features in closed form."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, TypeVar

from pydantic import Field
from torch import Tensor

from continual.adapters.bottleneck import StackWeights, shared
from continual.data.inputs import ExperienceData
from continual.learning.feature_cache import FeatureCache
from continual.learning.learner import IncrementalLearner
from continual.learning.settings import AdapterSettings, Settings
from continual.learning.state import State
from continual.learning.training import Training
from continual.methods.bases.adapter_training import PrototypeAdapterTraining, new_stack


class FirstStackSettings(AdapterSettings):
    """Adapter training on the first experience, with the numbers of the authors' toolbox for CIFAR-100.

    Adapters are wider than MOS's, as there is one stack only, and learn at the temporary head's rate.
    """

    lr: float = Field(0.01, gt=0, description="peak rate of the adapters")
    head_lr_ratio: float = Field(1.0, gt=0, description="the temporary head's rate as a share of lr")
    bottleneck: int = Field(64, ge=1, description="r, the width of an adapter")


@dataclass(frozen=True)
class FirstStackState(State):
    """The stack of the first experience, with no weights in it if none was trained."""

    stack: StackWeights | None = None


F = TypeVar("F", bound=FirstStackState)


class FirstStackTraining(PrototypeAdapterTraining[F]):
    """Trains in the first experience; later ones only add to what is remembered."""

    def __init__(self, learner: FirstStackLearner[F], data: ExperienceData) -> None:
        before = learner.state
        super().__init__(learner, data, new_stack(learner, before.stack))
        if before.stack is not None:
            self.epochs = 0

    def frozen_stack(self) -> StackWeights:
        """Return the first experience's stack, as it is kept for good."""
        return self.before.stack or self.stack.frozen()


class FirstStackLearner(IncrementalLearner[F]):
    """A learner whose only stack is the first experience's."""

    settings_type: ClassVar[type[Settings]] = FirstStackSettings

    @abstractmethod
    def begin(self, data: ExperienceData) -> Training[F]: ...

    def adapted_features(self, images: Tensor, stack: StackWeights, cache: FeatureCache | None = None) -> Tensor:
        """Return features (B, D) under the first stack, from `cache` where it has them."""
        adapters = shared(stack, self.settings.adapter_scale) if stack else None
        if cache is None:
            return self.features(images, adapters)
        return cache.features(images, ["first stack"] * len(images), lambda rows: self.features(images[rows], adapters))
