"""Sequential fine-tuning of one adapter stack and one head: the lower bound, where forgetting shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from pydantic import Field
from torch import Tensor
from torch.nn.functional import linear

from continual.adapters.bottleneck import StackWeights, shared
from continual.data.inputs import ExperienceData
from continual.learning import model_file
from continual.learning.feature_cache import FeatureCache
from continual.learning.learner import IncrementalLearner
from continual.learning.settings import AdapterSettings, Settings
from continual.learning.state import Scores, State, replace_state
from continual.learning.training import Progress
from continual.methods.bases.adapter_training import AdapterTraining, new_stack
from continual.methods.bases.alignment import head_without


class FinetuneSettings(AdapterSettings):
    """Numbers of sequential fine-tuning."""

    logits: Literal["new", "seen"] = Field(
        "seen", description="cross-entropy over the new classes only, or over all classes seen"
    )


@dataclass(frozen=True)
class AdapterState(State):
    """One stack and one head."""

    stack: StackWeights | None = None
    head: tuple[Tensor, Tensor] | None = None  #: weight (C, D), bias (C,)

    def own_without(self, index: int) -> dict[str, Any]:
        """Leave out the head's row."""
        return {"head": head_without(self.head, index)}


class FinetuneTraining(AdapterTraining[AdapterState]):
    """Goes on with the stack and the head where the last experience left them."""

    def __init__(self, learner: FinetuneLearner, data: ExperienceData) -> None:
        super().__init__(learner, data, new_stack(learner, learner.state.stack), learner.state.head)
        if learner.settings.logits == "seen":
            self.active[:] = True

    def finish(self, progress: Progress | None = None) -> AdapterState:
        return AdapterState(**self.progress_counts(), stack=self.stack.frozen(), head=self.head_tensors())


class SingleStackLearner(IncrementalLearner[AdapterState]):
    """Predicts with one stack and one head, whatever they were trained on."""

    correctable = False
    settings_type: ClassVar[type[Settings]] = AdapterSettings
    state_type = AdapterState

    def scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        """Return the softmax of the head's logits."""
        assert self.state.stack is not None
        assert self.state.head is not None
        features = self.features(images, shared(self.state.stack, self.settings.adapter_scale))
        return Scores(linear(features, *self.state.head).softmax(-1))

    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        if self.state.stack is None or self.state.head is None:
            return {}, {}
        tensors = {"head/weight": self.state.head[0], "head/bias": self.state.head[1]}
        return tensors | model_file.join("stack", self.state.stack), {}

    def unpack(self, common: State, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> AdapterState:
        if not common.classes:
            return replace_state(common, AdapterState)
        head = (tensors["head/weight"], tensors["head/bias"])
        return replace_state(common, AdapterState, stack=model_file.part(tensors, "stack"), head=head)


class FinetuneLearner(SingleStackLearner):
    """One stack and one head, trained on every experience in turn.

    With `logits="seen"` a class that returns trains like any other. Memory grows by a head row, D + 1
    numbers, a class.
    """

    method = "finetune"
    paper = "none: the usual lower bound"
    summary = "one adapter stack and head trained on every experience in turn; forgets"
    settings_type = FinetuneSettings

    def begin(self, data: ExperienceData) -> AdapterTraining[AdapterState]:
        return FinetuneTraining(self, data)
