"""Models of several sites as one: what a method says of it, and features that are not the same at every site.

What was trained at a site makes features of its own. Some images of anything, without labels, are run under what was
trained at each; what is remembered under the one follows a map to the other, as in a port (`learning.porting`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch

from continual.adapters.base import Weights
from continual.data.inputs import to_predict
from continual.data.ranges import ValueRange
from continual.errors import InputError
from continual.learning.extractor import Progress
from continual.learning.porting import LEAST_EXPLAINED, LEAST_IMAGES, Porting
from continual.learning.state import JointClasses, S
from continual.statistics.transport import FeatureMap

Place = tuple[int, int]  #: a model, and one of its spaces of `remembered_features`


@dataclass
class Meeting:
    """The models that are merged, and images of anything on which their features are compared."""

    learners: Sequence[Joining[Any]]
    images: Any = None
    progress: Progress | None = None
    workers: int = 0
    value_range: ValueRange | None = None
    _features: dict[int, list[torch.Tensor]] = field(default_factory=dict)
    _maps: dict[tuple[Place, Place], FeatureMap] = field(default_factory=dict)

    def features(self, place: Place) -> torch.Tensor:
        """Return features (n, D) of the images in one space of a model; raises InputError without enough images."""
        number, space = place
        if number not in self._features:
            self._features[number] = self.read(self.learners[number])
        return self._features[number][space]

    def read(self, learner: Joining[Any]) -> list[torch.Tensor]:
        """Return features (n, D) of the images in every space that a learner remembers something in."""
        if self.images is None:
            raise InputError(
                f"what these models of {learner.method} have trained differs, and so do their features: give some 200 "
                "images of anything, without labels, by which what they remember is mapped "
                "(merged(models, images), equimos merge ... --images DIR)"
            )
        return learner._remembered(self._given(learner), self.progress, self.workers, self.value_range)

    def map(self, old: Place, new: Place) -> FeatureMap:
        """Return the map from one space of features to another, fitted once."""
        if (old, new) not in self._maps:
            self._maps[old, new] = self.fitted(self.features(old), self.features(new))
        return self._maps[old, new]

    def fitted(self, old: torch.Tensor, new: torch.Tensor) -> FeatureMap:
        """Return the map between features of the images; raises InputError where it explains too little."""
        found = FeatureMap.fit(old, new, len(old) // len(self._given(self.learners[0])))
        if found.explained < LEAST_EXPLAINED:
            raise InputError(
                f"one model's features explain {max(found.explained, 0):.0%} of another's variance, by these images; "
                f"below {LEAST_EXPLAINED:.0%} nothing that is remembered can be mapped. Give more images, or begin "
                "models that are to be merged from one file"
            )
        return found

    def _given(self, learner: Joining[Any]) -> Any:
        images = to_predict(self.images, learner.preprocessing.channels)
        if len(images) < LEAST_IMAGES:
            raise InputError(
                f"{len(images)} images are too few to map features by: give {LEAST_IMAGES} at least, better 200, of "
                "anything and without labels"
            )
        return images


class Joining(Porting[S]):
    """The learner's part in merging; see `continual.learning.merged`."""

    #: why models of it cannot be merged; None if they can
    unmergeable: ClassVar[str | None] = "it does not say how what it remembers at several sites goes together"

    #: whether a merged model has the adapters of all models, and not one set of weights, or none
    keeps_every_adapter: ClassVar[bool] = False

    # What a method says ----------------------------------------------------------------------------------

    def joined(self, states: Sequence[S], joint: JointClasses) -> S:
        """Return what models of these states know together, which remember in the same features."""
        raise NotImplementedError(f"{type(self).__name__} does not say how its states are joined")

    def joined_apart(self, states: Sequence[S], joint: JointClasses, meeting: Meeting) -> S:
        """Return what models of these states know together; features that differ are mapped by the `meeting`."""
        return self.joined(states, joint)

    def common_weights(self) -> tuple[Weights, Weights] | None:
        """Return the single set of weights that all features depend on, and what its training began at; None for none.

        Of several models these are merged into one by a rule, and what each remembers is mapped to its features.
        """
        return None

    def with_weights(self, weights: Weights) -> S:
        """Return the state with other `common_weights`."""
        raise NotImplementedError(f"{type(self).__name__} does not say where its weights are")
