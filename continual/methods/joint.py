"""Joint training on images seen so far, from scratch each time: the upper bound. It keeps images, or some of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from pydantic import Field
from torch import Tensor
from torch.utils.data import ConcatDataset, Dataset, Subset

from continual import selection
from continual.data.inputs import ExperienceData, Label
from continual.data.loaders import label_indices
from continual.errors import InputError
from continual.learning.answers import Scores
from continual.learning.extractor import Extractor, Progress, extract
from continual.learning.feature_cache import FeatureCache
from continual.learning.settings import AdapterSettings
from continual.learning.training import Start
from continual.methods.bases.adapter_training import (
    AdapterTraining,
    SingleAdapterLearner,
    SingleAdapterState,
    logits,
)
from continual.methods.bases.tempered import TemperedState
from continual.registry import Registry
from continual.seeding import generator
from continual.selection.base import selected
from continual.statistics.fields import transient
from continual.symmetry.base import symmetry_of
from continual.uncertainty.temperature import Temperature, updated


class JointSettings(AdapterSettings):
    """Numbers of joint training."""

    named: ClassVar[Mapping[str, Registry]] = {**AdapterSettings.named, "selection": selection.RULES}

    kept: int | None = Field(None, ge=1, description="images kept per class of earlier experiences; None keeps all")
    selection: str = Field("herding", description="which images these are; see `equimos list selection`")
    held_out: float = Field(
        0.0, ge=0, le=0.5, description="share of each class's images that do not train, but say how sure answers are; "
        "0: there are no probabilities"
    )  # fmt: skip


@dataclass(frozen=True)
class JointState(SingleAdapterState, TemperedState):
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
        self.held, trained = _divided(everything, start.settings, start.state.updates)
        super().__init__(start, trained, None, None)
        self.active[:] = True

    def finish(self, progress: Progress | None = None) -> JointState:
        newest = _kept(self.single, self.settings, self.newest, len(self.before.seen), progress)
        state = JointState(
            **self.progress_counts(),
            stack=self.adapter.frozen(),
            head=self.frozen_head(),
            seen=(*self.before.seen, newest),
        )
        return replace(state, temperature=self._temperature(state))

    def _temperature(self, state: JointState) -> Temperature | None:
        """Return what the images that did not train say; the earlier models' are not asked, as all is trained again."""
        if not self.held.labels:
            return None
        size = self.settings.eval_batch_size
        extractor = replace(self.extractor, symmetry=symmetry_of(self.settings, self.fitted))
        (values,), labels = extract(
            self.held.evaluation, lambda images, _: [logits(extractor, self.settings, state, images)], size, self.device
        )
        return updated(None, values, label_indices(labels, self.index).to(self.device))


def _divided(data: ExperienceData, settings: JointSettings, updates: int) -> tuple[ExperienceData, ExperienceData]:
    """Return the images that are held out, a share of each class's, and the others."""
    held: set[int] = set()
    for label in dict.fromkeys(data.labels if settings.held_out else ()):
        own = [i for i, other in enumerate(data.labels) if other == label]
        order = torch.randperm(len(own), generator=generator(settings.seed, "held out", updates, label))
        held |= {own[i] for i in order[: int(settings.held_out * len(own))].tolist()}
    if not held:
        return _some(data, []), data
    trained = _some(data, [i for i in range(len(data.labels)) if i not in held])
    return _some(data, sorted(held)), replace(trained, value_range=data.value_range)


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
    its images are not in the file: it cannot learn on. There are probabilities only with `held_out`: of images that all
    trained, nothing says how sure an answer about others is.
    """

    method = "joint"
    paper = "none: the usual upper bound"
    summary = "one adapter and head trained from scratch on all images so far; keeps the images"
    exemplar_free = False
    unmergeable = "it keeps images: learn those of all sites in one place"
    unportable = "it keeps images: give them to a new model on the new backbone"
    settings_type = JointSettings
    state_type = JointState

    def _scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        values = logits(self.extractor, self.settings, self.state, images)
        return Scores(values.softmax(-1), probabilities=self.state.probabilities(values))

    def begin(self, data: ExperienceData) -> JointTraining:
        """Start from scratch; raises InputError if the images of earlier experiences are not at hand."""
        if self.state.updates and not self.state.seen:
            raise InputError("a joint learner read from a file cannot learn on: its images are not in the file")
        return JointTraining(self.start, data)

    def recall(self, experiences: Sequence[ExperienceData]) -> None:
        single = self.extractor.untransformed
        seen = tuple(_kept(single, self.settings, data, number) for number, data in enumerate(experiences))
        self.state = replace(self.state, seen=seen)
