"""Joint training on everything seen so far, anew each experience: the upper bound. It keeps the images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

from torch.utils.data import ConcatDataset, Dataset, Subset

from continual.data.inputs import ExperienceData, Label
from continual.errors import InputError
from continual.learning.state import replace_state
from continual.learning.training import Progress
from continual.methods.bases.adapter_training import AdapterTraining, new_stack
from continual.methods.finetune import AdapterState, SingleStackLearner


@dataclass(frozen=True)
class JointState(AdapterState):
    """One stack and one head, and references to all the images they were trained on."""

    seen: tuple[ExperienceData, ...] = ()

    def renamed(self, old: Label, new: Label) -> Self:
        """Return the state in which class and images have the new name."""
        seen = tuple(
            ExperienceData(
                _Renamed(part.training, old, new),
                _Renamed(part.evaluation, old, new),
                [new if label == old else label for label in part.labels],
            )
            for part in self.seen
        )
        return replace(super().renamed(old, new), seen=seen)

    def own_without(self, index: int) -> dict[str, Any]:
        """Leave out the head's row and the images."""
        parts = [
            (part, [i for i, label in enumerate(part.labels) if label != self.classes[index]]) for part in self.seen
        ]
        seen = tuple(
            ExperienceData(Subset(part.training, rows), Subset(part.evaluation, rows), [part.labels[i] for i in rows])
            for part, rows in parts
            if rows
        )
        return super().own_without(index) | {"seen": seen}


@dataclass(frozen=True)
class _Renamed(Dataset[Any]):
    """A data set in which one class has another name."""

    dataset: Any
    old: Label
    new: Label

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> Any:
        image, label, *rest = self.dataset[index]
        return image, self.new if label == self.old else label, *rest


class JointTraining(AdapterTraining[AdapterState]):
    """A fresh stack and head, on all the images so far."""

    def __init__(self, learner: JointLearner, data: ExperienceData) -> None:
        before = learner.state
        self.seen = (*before.seen, data) if isinstance(before, JointState) else (data,)
        everything = ExperienceData(
            ConcatDataset([part.training for part in self.seen]),
            ConcatDataset([part.evaluation for part in self.seen]),
            [label for part in self.seen for label in part.labels],
        )
        super().__init__(learner, everything, new_stack(learner), None)
        self.active[:] = True

    def finish(self, progress: Progress | None = None) -> AdapterState:
        return JointState(**self.progress_counts(), stack=self.stack.frozen(), head=self.head_tensors(), seen=self.seen)


class JointLearner(SingleStackLearner):
    """One stack and one head, trained from scratch on all experiences so far; not exemplar-free.

    A saved joint learner predicts, but its images are not in the file: it cannot learn on.
    """

    method = "joint"
    paper = "none: the usual upper bound"
    summary = "one adapter stack and head trained anew on all images so far; keeps the images"
    exemplar_free = False

    def begin(self, data: ExperienceData) -> JointTraining:
        """Start anew; raises InputError if the images of earlier experiences are not at hand."""
        if self.state.updates and not (isinstance(self.state, JointState) and self.state.seen):
            raise InputError("a joint learner read from a file cannot learn on: its images are not in the file")
        return JointTraining(self, data)

    def recall(self, experiences: Sequence[ExperienceData]) -> None:
        state = self.state
        self.state = replace_state(state, JointState, stack=state.stack, head=state.head, seen=tuple(experiences))
