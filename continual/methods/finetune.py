"""Sequential fine-tuning of one adapter and one head: the lower bound, where forgetting shows."""

from typing import Literal

from pydantic import Field

from continual.data.inputs import ExperienceData
from continual.learning.settings import AdapterSettings
from continual.learning.training import Progress, Start
from continual.methods.bases.adapter_training import AdapterTraining, SingleAdapterLearner, SingleAdapterState


class FinetuneSettings(AdapterSettings):
    """Numbers of sequential fine-tuning."""

    logits: Literal["new", "seen"] = Field("seen", description="cross-entropy over the new classes, or over all seen")


class FinetuneTraining(AdapterTraining[SingleAdapterState]):
    """Continues with the adapter and the head as the last experience left them."""

    def __init__(self, start: Start[SingleAdapterState], data: ExperienceData) -> None:
        super().__init__(start, data, start.state.stack, start.state.head)
        if self.settings.logits == "seen":
            self.active[:] = True

    def finish(self, progress: Progress | None = None) -> SingleAdapterState:
        return SingleAdapterState(**self.progress_counts(), stack=self.adapter.frozen(), head=self.frozen_head())


class FinetuneLearner(SingleAdapterLearner[SingleAdapterState]):
    """One adapter and one head, trained on every experience in turn.

    With `logits="seen"` a class that returns trains like any other. Memory grows by a head row, D + 1
    numbers, per class.
    """

    method = "finetune"
    paper = "none: the usual lower bound"
    summary = "one adapter and head trained on every experience in turn; forgets"
    settings_type = FinetuneSettings
    state_type = SingleAdapterState
    learns_unlabelled = True

    def begin(self, data: ExperienceData) -> FinetuneTraining:
        return FinetuneTraining(self.start, data)
