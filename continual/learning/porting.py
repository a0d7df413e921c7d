"""Moving a learner to another backbone whose features are not those it has learned, without the images it has learned.

A few dozen images of anything, without labels, are run through both backbones. What is remembered of classes is mapped
from the old features to the new ones (`continual.statistics.transport`), adapters are copied, and the head follows from
what is remembered. How a method's state moves, the method says.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar, Generic, Self

import torch
from torch import Tensor

from continual.backbones.loading import Backbone
from continual.data.inputs import as_experience, to_predict
from continual.data.preprocessing import Preprocessing
from continual.data.ranges import ValueRange
from continual.errors import BackboneError, InputError, LearningError
from continual.learning.extractor import Extractor, Progress, extract, single_views
from continual.learning.settings import check_adapters
from continual.learning.state import S, Simulation
from continual.statistics.transport import FeatureMap

#: fewer mapping images say too little even of a small update
LEAST_IMAGES = 20
#: below this share of variance explained a ported model is worse than the old one on real images
LEAST_EXPLAINED = 0.3


@dataclass(frozen=True)
class Space:
    """Features of the same images under both backbones, in one space that something is remembered in."""

    old: Tensor  #: (n, D)
    new: Tensor  #: (n, D')
    map: FeatureMap


@dataclass(frozen=True)
class PortReport:
    """What is known of a port before anything is written."""

    images: int  #: mapping images; 0 where the backbone is the same, and nothing was fitted
    explained: tuple[float, ...] = ()  #: share of the new features' variance, left out; of each space of features
    #: draws how images of a class would be answered before and now; None for methods that cannot
    simulation: Simulation | None = None

    @property
    def same(self) -> bool:
        """Whether the backbone was the same, so that nothing has changed."""
        return self.images == 0


class Porting(ABC, Generic[S]):
    """The learner's way to another backbone."""

    method: ClassVar[str]
    backbone: Backbone
    settings: Any
    state: S
    device: torch.device

    @property
    @abstractmethod
    def extractor(self) -> Extractor: ...

    @property
    @abstractmethod
    def preprocessing(self) -> Preprocessing: ...

    @abstractmethod
    def variant(self, **settings: Any) -> Self: ...

    @abstractmethod
    def check(self) -> None: ...

    @abstractmethod
    def trial(self) -> None: ...

    # What a method says ----------------------------------------------------------------------------------

    #: why it cannot be ported; None if it can
    unportable: ClassVar[str | None] = "it does not say how what it remembers moves to other features"
    #: whether the head is aligned again, and can be held to the old one's answers
    keeps_answers: ClassVar[bool] = False

    @property
    def heeds_keep_answers(self) -> bool:
        """Whether the setting `keep_answers` changes any answer: an aligned head has a say in them."""
        return self.keeps_answers and getattr(self.settings, "alignment_epochs", 0) > 0

    @property
    def adapted(self) -> bool:
        """Whether adapters, or a part of the backbone, were trained: they fit a ViT of the same shapes alone."""
        return False

    def remembered_features(self, extractor: Extractor, images: Tensor) -> Sequence[Tensor]:
        """Return features of prepared images in every space that something is remembered in.

        (B, D) each, or (B, v, D) where v views of an image are samples of their own.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say in which features it remembers")

    def ported(self, target: Self, spaces: Sequence[Space], keep_answers: float) -> S:
        """Return the state on the backbone of `target`, by the map of each space of `remembered_features`."""
        raise NotImplementedError(f"{type(self).__name__} does not say how its state moves")

    def moved_weights(self, backbone: Backbone) -> S:
        """Return the state with what was trained of a network as it goes to the new one: by default, copied."""
        return self.state

    def port_simulation(self, after: Self, spaces: Sequence[Space]) -> Simulation | None:
        """Return what tells how images of a class would be answered before, and by `after` on the new backbone."""
        return None

    # What users call -------------------------------------------------------------------------------------

    def port(
        self,
        backbone: Backbone,
        images: Any,
        *,
        keep_answers: float = 0.0,
        progress: Progress | None = None,
        workers: int = 0,
        value_range: ValueRange | None = None,
    ) -> PortReport:
        """Move to another backbone, by images of anything, without labels: a few dozen, better a few hundred.

        `images` and `value_range` are as `predict` takes them. With `keep_answers`, a method that aligns its head holds
        it to the old one's answers on these images, at that weight. The same backbone changes no bit.

        Raises InputError for methods that remember nothing which can be mapped, too few images, a backbone whose
        features the old ones explain to less than 30 %, and adapters that do not fit into it; the learner is then as it
        was.
        """
        if not self.state.classes:
            raise InputError("nothing has been learned yet: make a new model on the new backbone")
        self._check_portable(keep_answers)
        if self.state.ignored:
            raise InputError(
                f"{self.state.ignored[0].name!r} is suppressed in features of the old backbone: allow it, port, "
                "and suppress it again (equimos concept allow)"
            )
        backbone = backbone.on(self.device)
        if (backbone.sha256, backbone.preprocessing) == (self.backbone.sha256, self.backbone.preprocessing):
            return PortReport(0)
        target = self._on(backbone)
        images = to_predict(images, self.backbone.preprocessing.channels)
        if len(images) < LEAST_IMAGES:
            raise InputError(
                f"{len(images)} images are too few to map features by: give {LEAST_IMAGES} at least, better 200, of "
                "anything and without labels"
            )
        spaces = [
            Space(x, z, FeatureMap.fit(x, z, len(x) // len(images)))
            for x, z in zip(
                *(each._remembered(images, progress, workers, value_range) for each in (self, target)), strict=True
            )
        ]
        explained = tuple(space.map.explained for space in spaces)
        if min(explained) < LEAST_EXPLAINED:
            raise InputError(
                f"the old features explain {max(min(explained), 0):.0%} of the new ones' variance, by {len(images)} "
                f"images; below {LEAST_EXPLAINED:.0%} a ported model is worse than the old one. If the backbones are "
                "of one lineage, more images may help; else learn from scratch on the new backbone"
            )
        target.state = self.ported(target, spaces, keep_answers)
        try:
            target.trial()
        except Exception as error:
            raise LearningError(f"the ported model does not answer ({error}); the learner is as it was") from error
        report = PortReport(len(images), explained, self.port_simulation(target, spaces))
        self.backbone, self.state = target.backbone, target.state
        self._forget_cached()
        return report

    def _check_portable(self, keep_answers: float) -> None:
        """Raise InputError for what cannot be ported, whatever the backbone."""
        if self.unportable:
            raise InputError(
                f"{self.method} cannot be ported: {self.unportable}. Learn from scratch on the new backbone; methods "
                "that remember sums, means or distributions of features can be ported, such as strata and mos"
            )
        if not 0 <= keep_answers < float("inf"):
            raise InputError(f"keep_answers is a weight, a number from 0, got {keep_answers}")
        if keep_answers and not self.keeps_answers:
            raise InputError(
                f"keep_answers goes with methods that align a head, such as mos: {self.method} solves its answers from "
                "what it remembers; leave it out"
            )
        if self.state.fitted:
            raise InputError(
                f"{self.settings.symmetry} was fitted to features of the old backbone's, with labels that are gone: a "
                "model with symmetry='frame' can be ported, this one must learn from scratch"
            )

    def _on(self, backbone: Backbone) -> Self:
        """Return a learner of the same state on another backbone; raises InputError where adapters do not fit."""
        target = self.variant()
        target.backbone = backbone
        target._forget_cached()
        try:
            target.check()
            check_adapters(backbone.frozen, target.settings)
        except BackboneError as error:
            raise InputError(f"{self.method} cannot be ported to {backbone.name}: {error}") from error
        mine, its = (one.frozen for one in (self.backbone, backbone))
        if self.adapted and (mine.shapes != its.shapes or mine.has_blocks != its.has_blocks):
            raise InputError(
                f"the adapters of {self.method} fit a ViT of {mine.depth} blocks of width {mine.width}, and "
                f"{backbone.name} is another architecture ({its.depth} of {its.width}): only methods without adapters "
                "(strata, ridge, simple_cil, ranpac with epochs=0) can be ported there"
            )
        target.state = target_state = self.moved_weights(backbone)
        assert target_state.classes == self.state.classes
        return target

    def _remembered(
        self, images: Any, progress: Progress | None, workers: int, value_range: ValueRange | None
    ) -> list[Tensor]:
        """Return features (n, D) of images in every space, as they would be remembered: rows of one image together."""
        state, settings = self.state, self.settings
        given: dict[str, Any] = {"value_range": value_range, "remembered": state.value_range}
        data = as_experience(images, [0] * len(images), self.preprocessing, **given)
        seeing, data, _ = single_views(self.extractor, settings, state.fitted, data, first=False)

        def compute(batch: Tensor, _: Any) -> Sequence[Tensor]:
            return self.remembered_features(seeing, batch)

        found, _ = extract(data.evaluation, compute, settings.eval_batch_size, self.device, progress, workers)
        return [rows.flatten(0, -2) for rows in found]

    def _forget_cached(self) -> None:
        """Drop what followed from the old backbone."""
        for name in [n for n in vars(self) if isinstance(getattr(type(self), n, None), cached_property)]:
            del self.__dict__[name]
