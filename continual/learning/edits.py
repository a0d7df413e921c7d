"""What is changed in a learner without learning an experience: a name, a class, an answer."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar, Generic

from torch import Tensor

from continual.backbones.loading import Backbone
from continual.data.inputs import ExperienceData, Label, as_experience, to_predict
from continual.data.loaders import label_indices
from continual.data.preprocessing import Preprocessing
from continual.data.ranges import ValueRange
from continual.errors import InputError
from continual.learning.header import check_labels
from continual.learning.state import S
from continual.learning.training import Progress, Training


class Edits(ABC, Generic[S]):
    """The learner's operations on classes it knows. Each either succeeds or leaves the learner as it was."""

    method: ClassVar[str]
    correctable: ClassVar[bool] = True  #: False if old classes leave nothing behind that keeps them while others change
    backbone: Backbone
    state: S

    @property
    @abstractmethod
    def preprocessing(self) -> Preprocessing: ...

    @abstractmethod
    def begin(self, data: ExperienceData) -> Training[S]: ...

    @abstractmethod
    def complete(self, training: Training[S], progress: Progress | None = None) -> None: ...

    def rename(self, old: Label, new: Label) -> None:
        """Give a class another name; answers are the same except for it.

        Raises InputError for a class never learned, a name that is taken, or one of another type (str, int).
        """
        self.indices([old])
        check_labels([new])
        if new in self.state.classes:
            raise InputError(f"there is a class {new!r} already: choose another name, or forget one of the two")
        if type(new) is not type(old):
            raise InputError(f"{new!r} is {type(new).__name__}, but the classes are {type(old).__name__}: use one kind")
        self.state = self.state.renamed(old, new)

    def forget(self, label: Label) -> None:
        """Remove a class: its statistics, prototype and head row. It may be learned again, as a new one.

        The other classes' own scores stay, so an answer changes only where the class had won. Methods that
        retrieve stacks (MOS) may also answer otherwise where it had a part in finding the stack, or in the
        shares that an ensemble adds up. Adapters that were trained on it stay, and of sums over all classes what
        `GramStatistics.without` cannot tell from the others'. Regressions with `exact_forget` answer as if the class
        had never been learned.

        Raises InputError for a class never learned and for the last one.
        """
        index = int(self.indices([label]))
        if len(self.state.classes) == 1:
            raise InputError(f"{label!r} is the only class: a learner without classes is a new one")
        self.state = self._forgotten(index)

    def _forgotten(self, index: int) -> S:
        """Return the state without the class of that index."""
        return self.state.without(index)

    def correct(
        self,
        images: Any,
        label: Label,
        *,
        progress: Progress | None = None,
        workers: int = 0,
        value_range: ValueRange | None = None,
    ) -> None:
        """Say that these images, which were taken for something else, are of the known class `label`.

        `images` and `value_range` are as `predict` takes them. The class's statistics, prototype or sums
        become those of all its images together. A head that is aligned on class statistics is aligned
        again, with the features of these images added to those drawn; nothing else is trained. That every
        image is answered right afterwards is likely, but not certain: ask `predict`.

        Raises InputError for a class never learned, images that cannot be used, and methods that cannot
        change their head for some classes without forgetting the others (`correctable = False`).
        """
        self.indices([label])
        if not self.correctable:
            raise InputError(
                f"{self.method} cannot correct: it remembers nothing of its classes but a head, which a few images "
                "would pull away from all others; call learn with images of all classes concerned"
            )
        images = to_predict(images, self.preprocessing.channels)
        given: dict[str, Any] = {"value_range": value_range, "remembered": self.state.value_range}
        training = self.begin(as_experience(images, [label] * len(images), self.preprocessing, **given))
        training.workers, training.correcting = workers, True
        self.complete(training, progress)

    def indices(self, labels: Sequence[Label]) -> Tensor:
        """Return the index of each label in `classes`; raises InputError for one never learned."""
        return label_indices(labels, {label: i for i, label in enumerate(self.state.classes)})
