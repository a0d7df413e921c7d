"""What a loss term is: a part of a training's loss, from a batch that is whole however many processes share it."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """A minibatch, of which only images of active classes are left: B images, C classes."""

    features: Tensor  #: (B, D)
    logits: Tensor  #: (B, C), over all classes seen
    targets: Tensor  #: (B,) int64
    active: Tensor  #: (C,) bool, the classes that take part in the loss
    extra: Mapping[str, Tensor] = field(default_factory=dict)  #: (B, ...) each, what the method and the terms add


class LossTerm(BaseModel, ABC):
    """One term of a training's loss; its fields are its settings, and `weight` is its factor.

    A new term is made for every experience. In several processes `observe` sees the images of its own process; what
    it returns is joined, and is in `Batch.extra` under the same names.
    """

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    name: ClassVar[str]
    weight: float = Field(1.0, ge=0, description="factor of this term in the loss")

    def prepare(self, training: Any) -> None:
        """Take what is needed of a `continual.learning.training.GradientTraining` before its first step."""

    def observe(self, images: Tensor) -> Mapping[str, Tensor]:
        """Return what the term needs of prepared images (b, 3, H, W) besides features and logits, (b, ...) each."""
        return {}

    @abstractmethod
    def __call__(self, batch: Batch) -> Tensor:
        """Return the term, a scalar, without its weight."""
