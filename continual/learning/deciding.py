"""How a learner with `group="auto"` comes to know its group: the first experience's images decide, before training."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace
from typing import Any, Generic, Self

from continual.data.inputs import ExperienceData
from continual.errors import InputError
from continual.learning.extractor import Extractor, Progress, choose_group
from continual.learning.state import S
from continual.learning.training import Start, Training
from continual.symmetry.choice import AUTO


class Deciding(ABC, Generic[S]):
    """The learner's way to a training, whatever its method."""

    settings: Any
    state: S

    @property
    @abstractmethod
    def extractor(self) -> Extractor: ...

    @abstractmethod
    def begin(self, data: ExperienceData) -> Training[S]: ...

    @abstractmethod
    def variant(self, **settings: Any) -> Self: ...

    @property
    def start(self) -> Start[S]:
        """What a training of the next experience starts from; raises InputError while the group is undecided."""
        if self.undecided:
            raise InputError('group="auto" is decided on images: call start_training(data), not begin(data)')
        return Start(self.state, self.settings, self.extractor)

    @property
    def undecided(self) -> bool:
        """Whether the images of the next experience are to decide on a group."""
        return self.settings.group == AUTO and self.state.choice is None and self.state.updates == 0

    def start_training(self, data: ExperienceData, progress: Progress | None = None, workers: int = 0) -> Training[S]:
        """Begin to learn an experience, once its images have decided on a group where that is left to them."""
        if not self.undecided:
            return self.begin(data)
        decided = self.variant()
        choice = choose_group(self.extractor, data, self.settings, progress, workers)
        decided.state = replace(self.state, choice=choice)
        return decided.begin(data)
