"""Joint training on images seen so far, anew each experience: the upper bound. It keeps the images, or some of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

from pydantic import Field
from torch.utils.data import ConcatDataset, Dataset, Subset

from continual import selection
from continual.data.inputs import ExperienceData, Label
from continual.errors import InputError
from continual.learning.extractor import Extractor, Progress, extract
from continual.learning.settings import AdapterSettings
from continual.learning.training import Start
from continual.methods.bases.adapter_training import AdapterTraining, SingleAdapterLearner, SingleAdapterState
from continual.registry import Registry
from continual.seeding import generator
from continual.selection.base import selected
from continual.statistics.fields import transient


class JointSettings(AdapterSettings):
    """Numbers of joint training."""

    named: ClassVar[Mapping[str, Registry]] = {**AdapterSettings.named, "selection": selection.RULES}

    kept: int | None = Field(None, ge=1, description="images kept per class of earlier experiences; None keeps all")
    selection: str = Field("herding", description="which images these are; see `equimos list selection`")


@dataclass(frozen=True)
class JointState(SingleAdapterState):
    """One adapter and one head, and references to the images that are kept."""

    seen: tuple[ExperienceData, ...] = transient(())

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

    def without(self, index: int) -> Self:
        """Return the state without the class and its images."""
        label = self.classes[index]
        parts = [(part, [i for i, own in enumerate(part.labels) if own != label]) for part in self.seen]
        return replace(super().without(index), seen=tuple(_some(part, rows) for part, rows in parts if rows))


def _some(data: ExperienceData, rows: list[int]) -> ExperienceData:
    labels = [data.labels[i] for i in rows]
    return ExperienceData(Subset(data.training, rows), Subset(data.evaluation, rows), labels)


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


class JointTraining(AdapterTraining[JointState]):
    """A new adapter and head, on all the images that are kept."""

    def __init__(self, start: Start[JointState], data: ExperienceData) -> None:
        self.newest = data
        self.seen = (*start.state.seen, data)
        everything = ExperienceData(
            ConcatDataset([part.training for part in self.seen]),
            ConcatDataset([part.evaluation for part in self.seen]),
            [label for part in self.seen for label in part.labels],
            data.value_range,
        )
        super().__init__(start, everything, None, None)
        self.active[:] = True

    def finish(self, progress: Progress | None = None) -> JointState:
        newest = _kept(self.single, self.settings, self.newest, len(self.before.seen), progress)
        seen = (*self.before.seen, newest)
        return JointState(**self.progress_counts(), stack=self.adapter.frozen(), head=self.frozen_head(), seen=seen)


def _kept(
    extractor: Extractor, settings: JointSettings, data: ExperienceData, number: int, progress: Progress | None = None
) -> ExperienceData:
    """Return what is kept of the experience of that number, chosen by the backbone's own features of its images."""
    if settings.kept is None:
        return data
    size, device = settings.eval_batch_size, extractor.device
    (features,), labels = extract(
        data.evaluation, lambda images, _: [extractor.features(images)], size, device, progress
    )
    rows: list[int] = []
    for label in dict.fromkeys(labels):
        own = [i for i, other in enumerate(labels) if other == label]
        draw = generator(settings.seed, "kept images", number, label)
        rows += [own[i] for i in selected(settings.selection, features[own], settings.kept, draw)]
    return _some(data, sorted(rows))


class JointLearner(SingleAdapterLearner[JointState]):
    """One adapter and one head, trained from scratch on all experiences so far; not exemplar-free.

    With `kept` images per class of earlier experiences it is replay from scratch. A saved joint learner predicts, but
    its images are not in the file: it cannot learn on.
    """

    method = "joint"
    paper = "none: the usual upper bound"
    summary = "one adapter and head trained anew on all images so far; keeps the images"
    exemplar_free = False
    settings_type = JointSettings
    state_type = JointState

    def begin(self, data: ExperienceData) -> JointTraining:
        """Start anew; raises InputError if the images of earlier experiences are not at hand."""
        if self.state.updates and not self.state.seen:
            raise InputError("a joint learner read from a file cannot learn on: its images are not in the file")
        return JointTraining(self.start, data)

    def recall(self, experiences: Sequence[ExperienceData]) -> None:
        single = self.extractor.untransformed
        seen = tuple(_kept(single, self.settings, data, number) for number, data in enumerate(experiences))
        self.state = replace(self.state, seen=seen)
