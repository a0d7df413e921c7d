"""The incremental learner: learn experience by experience, predict, save and load. Free of Avalanche."""

import copy
import warnings
from abc import abstractmethod
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from continual import distributed
from continual.backbones.joined import as_backbone
from continual.backbones.loading import Backbone
from continual.data.folders import alike
from continual.data.images import LIMIT
from continual.data.inputs import ExperienceData, Label, as_experience, with_unlabelled
from continual.data.preprocessing import Preprocessing
from continual.data.ranges import ValueRange
from continual.errors import InputError, LearningError
from continual.learning.answers import Scores
from continual.learning.concept import Concept
from continual.learning.deciding import Deciding
from continual.learning.edits import Edits
from continual.learning.extractor import Extractor, Progress
from continual.learning.feature_cache import FeatureCache
from continual.learning.feature_store import Store
from continual.learning.header import check_labels
from continual.learning.joining import Joining
from continual.learning.loop import run
from continual.learning.settings import Settings, check_adapters, documented, make
from continual.learning.state import S, Simulation
from continual.learning.storing import Storing
from continual.learning.suppressing import Suppressing
from continual.learning.training import Checkpoints, Training
from continual.learning.unlabelled import UnlabelledUse
from continual.symmetry.base import Symmetry, symmetry_of
from continual.symmetry.choice import AUTO
from continual.symmetry.views import check_channels


class IncrementalLearner(Deciding[S], Edits[S], Storing[S], Joining[S], Suppressing[S]):
    """Learns new classes, experience by experience, on a frozen backbone; a method subclasses it.

    Create one with a backbone and settings, by name or as an object: `MOSLearner(backbone, epochs=5, seed=7)`,
    `MOSLearner(backbone, MOSSettings(epochs=5))` or `MOSLearner(backbone, preset="reference")`; an unknown or
    impossible setting raises InputError. The backbone given stays as it is; on another device a copy is used. A tag of
    timm's hub will do as well, and of several in a list the features are read side by side.

    `learn` and the edits (`correct`, `forget`, `rename`) either succeed or leave the learner as it was. `predict`
    changes nothing.
    """

    method: ClassVar[str]  #: the name in configs and on the command line
    paper: ClassVar[str]  #: where it comes from: "Author et al., VENUE YEAR, arXiv NUMBER"
    summary: ClassVar[str]  #: one line
    exemplar_free: ClassVar[bool] = True  #: False if it keeps the images it has seen
    linear_memory: ClassVar[bool] = True  #: False if memory grows by more than a fixed sum per class and experience
    #: False if nothing it remembers says how often such an answer is right: `Prediction.probabilities` is None
    probabilities: ClassVar[bool] = True
    #: True if answers follow from features that no later experience changes, and that a `FeatureCache` holds
    fixed_features: ClassVar[bool] = False
    any_backbone: ClassVar[bool] = False  #: True if it reads frozen features alone, so that a CNN will do as well
    learns_unlabelled: ClassVar[bool] = False  #: whether `learn` takes unlabelled images as well
    settings_type: ClassVar[type[Settings]] = Settings
    store: Store | None = None  #: set it to take frozen features from the disk or memory, and to keep them there
    #: how many unlabelled images the last `learn` used, if it was given any
    unlabelled_use: UnlabelledUse | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        documented(cls)
        if "scores" in vars(cls) and "_scores" not in vars(cls):
            warnings.warn(f"{cls.__name__}.scores is now called _scores", DeprecationWarning, stacklevel=2)
            cls._scores = cls.scores  # type: ignore[method-assign]
            del cls.scores

    def __init__(
        self,
        backbone: Backbone | str | Sequence[Backbone | str],
        settings: Settings | None = None,
        *,
        device: str | torch.device | None = None,
        preset: str | None = None,
        **values: Any,
    ) -> None:
        if settings is not None and (values or preset or not isinstance(settings, self.settings_type)):
            raise InputError(
                f"{type(self).__name__} takes settings by name, or as one {self.settings_type.__name__}, not both"
            )
        self.device = torch.device(device or "cpu")
        self.backbone = as_backbone(backbone).on(self.device)
        self.settings: Any = settings or make(self.settings_type, preset, **values)
        self.state: S = self.state_type()  # type: ignore[assignment]
        self._check()

    # What a method defines -----------------------------------------------------------------------------

    @abstractmethod
    def begin(self, data: ExperienceData) -> Training[S]:
        """Start learning an experience, from `self.start`; nothing of the learner changes before it is finished."""

    @abstractmethod
    def _scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        """Score prepared images (B, 3, H, W) on the learner's device over all classes seen.

        Features under weights that never change again may be taken from, and are then kept in, `cache`. Whoever wants
        answers asks `predict` or `score_batch`.
        """

    def check(self) -> None:
        """Raise InputError or BackboneError for settings and a backbone that do not go together."""
        if not self.any_backbone:
            self.backbone.frozen.check_has_blocks(self.method)

    # What users call -----------------------------------------------------------------------------------

    @property
    def classes(self) -> tuple[Label, ...]:
        """The classes learned so far, by the user's own names."""
        return self.state.classes

    @property
    def symmetry(self) -> Symmetry | None:
        """What is made of an image's views, if the settings name a group."""
        return symmetry_of(self.settings, self.state.fitted, self.state.choice)

    @property
    def preprocessing(self) -> Preprocessing:
        """How an image becomes this learner's input: as for the backbone, with a group in one pose."""
        plain = self.backbone.preprocessing
        return plain if self.settings.group is None else plain.for_a_group()

    @property
    def extractor(self) -> Extractor:
        """What gives this learner features of images."""
        return Extractor(self.backbone, self.settings.precision, self.device, self.symmetry, self.store)

    def __repr__(self) -> str:
        known = f"{len(self.classes)} classes in {self.state.experiences} experiences"
        return f"<{type(self).__name__}: {known}, {self.backbone!r}>"

    def learn(
        self,
        images: Any,
        labels: Any = None,
        *,
        unlabelled: Any = None,
        ignoring: Concept | None = None,
        progress: Progress | None = None,
        workers: int = 0,
        checkpoints: Checkpoints | None = None,
        decoded: int = LIMIT,
        value_range: ValueRange | None = None,
    ) -> None:
        """Learn one experience: any number of classes, also one, with any number of images, also one.

        `images` is a folder of class folders, a data set or loader of (image, label) pairs, or a sequence, array or
        column of images with `labels`, by position. Classes keep the names given, or those of the data set. A class
        seen before does not train the new adapters; its statistics and prototype become those of all its images
        together.

        `value_range` says what the numbers of images mean that are floats, or integers other than uint8:
        "normalised", "unit" (0 to 1), "bytes" (0 to 255) or (black, white). It is remembered, in the file too. Left
        out, it is the one remembered, else the floats decide, with a warning; see `continual.data.ranges`.

        `unlabelled` are further images, as `predict` takes them, that count as much as the method is sure of them;
        those unlike all classes are left out, and make no class. `unlabelled_use` then says how many counted.

        What is learned does not follow a concept that is to be `ignoring`, nor does what later experiences bring:
        adapters are trained without reading it, and heads are solved or corrected as by `suppress`.

        With `checkpoints` (a `continual.learning.checkpoints.CheckpointFolder`, say) the training is kept after every
        epoch, and resumes from there if it was stopped: called again with the same images, `learn` ends with
        the same bits. They serve this one call. `decoded` bytes of opened image files are kept for later epochs.

        Raises InputError for images or labels that cannot be used, LearningError if the loss diverges;
        in either case, and when interrupted, the learner stays as it was.
        """
        data = self._given(images, labels, value_range, decoded=decoded)
        if unlabelled is not None:
            self.check_unlabelled(checkpoints)
            data = with_unlabelled(data, unlabelled, self.preprocessing)
        if self.state.classes and type(self.state.classes[0]) is not type(data.labels[0]):
            raise InputError(
                f"labels are {type(data.labels[0]).__name__}, but the classes learned so far are "
                f"{type(self.state.classes[0]).__name__}: use one kind"
            )
        check_labels(dict.fromkeys(data.labels))
        folders = isinstance(images, str | Path)
        if folders and (wrong := alike([*map(str, self.state.classes), *map(str, data.labels)])):
            raise InputError("; ".join(wrong))
        if ignoring is None:
            self._trained(data, progress, workers, checkpoints)
            return
        probe = self.to_ignore(ignoring, progress, workers)
        probe._trained(data, progress, workers, checkpoints)
        if self.suppresses:
            probe.suppress(ignoring, progress=progress, workers=workers)
        self.state, self.unlabelled_use = probe.state, probe.unlabelled_use

    def _trained(
        self, data: ExperienceData, progress: Progress | None, workers: int, checkpoints: Checkpoints | None
    ) -> None:
        """Learn an experience in the learner's own loop."""
        training = self.start_training(data, progress, workers)
        run(training, progress, workers, checkpoints)
        if training.taught:
            teacher, training = training, self.start_training(data, progress, workers)
            training.learn_from(teacher, progress)
            run(training, progress, workers)
        self.complete(training, progress)

    def check_unlabelled(self, checkpoints: Checkpoints | None = None) -> None:
        """Raise InputError for methods and settings with which unlabelled images are not learned."""
        if not self.learns_unlabelled:
            raise InputError(
                f"{self.method} learns no unlabelled images: take strata, ridge, ranpac, mos, tuna, ease or finetune"
            )
        if self.settings.group is not None:
            raise InputError("unlabelled images are not learned with a group: leave one of the two out")
        if distributed.count() > 1 or checkpoints is not None:
            raise InputError("unlabelled images are learned in one process, and without checkpoints")

    def complete(self, training: Training[S], progress: Progress | None = None) -> None:
        """Finish a training and keep what it learned: the last call of every training loop.

        Raises LearningError, and keeps nothing, if an image's scores would not be finite; InputError for unlabelled
        images that changed nothing.
        """
        probe = self.variant()
        probe.state = training.finish(progress)
        if training.data.unlabelled is not None and training.unlabelled_use is None:
            raise InputError(
                f"{self.method} trains nothing in this experience, so unlabelled images would change nothing: leave "
                "them out, or bring a new class"
            )
        if not torch.isfinite(probe.score_batch(training.data.evaluation[0][0][None]).values).all():
            raise LearningError(
                f"experience {probe.state.updates} gave weights whose scores are not finite: lower the learning "
                "rates; the learner is as it was before"
            )
        self.state, self.unlabelled_use = probe.state, training.unlabelled_use

    def _given(self, images: Any, labels: Any, value_range: ValueRange | None, *, decoded: int = 0) -> ExperienceData:
        remembered, prepared = self.state.value_range, self.preprocessing
        return as_experience(images, labels, prepared, decoded=decoded, value_range=value_range, remembered=remembered)

    def variant(self, **settings: Any) -> Self:
        """Return a learner with the same state and some settings changed (those of inference, say)."""
        other = copy.copy(self)
        if settings:
            other.settings = make(self.settings_type, **{**self.settings.model_dump(), **settings})
            for name in [n for n in vars(self) if isinstance(getattr(type(self), n, None), cached_property)]:
                del other.__dict__[name]
            other._check(self.settings if self.state.updates else None)
        return other

    def _check(self, learned: Settings | None = None) -> None:
        """Raise InputError or BackboneError for settings and a backbone, or what is `learned`, that do not fit."""
        self.check()
        if self.settings.group not in (None, AUTO):
            check_channels(self.settings.group, self.backbone.frozen.channels)
        check_adapters(self.backbone.frozen, self.settings, learned)

    # What a method may add -----------------------------------------------------------------------------

    def simulation(self, after: Self) -> Simulation | None:
        """Return what tells how images of a class would be answered by this learner, and by what it became, `after`.

        They are drawn from what this one remembers. None for methods that remember nothing that stays true.
        """
        return None

    def recall(self, experiences: Sequence[ExperienceData]) -> None:
        """Hand the images learned so far to a restored learner; methods that keep images take them."""
