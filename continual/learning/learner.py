"""The incremental learner: learn experience by experience, predict, save and load. Free of Avalanche."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor
from torch.utils.data import Dataset

from continual import distributed
from continual.backbones import loading
from continual.backbones.loading import Backbone
from continual.data import image_cache
from continual.data.images import list_folder
from continual.data.inputs import (
    ExperienceData,
    ImageColumn,
    Label,
    PreparedImages,
    as_experience,
    as_images,
    evaluation_loader,
)
from continual.errors import InputError, LearningError, ModelFileError
from continual.learning import model_file
from continual.learning.edits import Edits
from continual.learning.feature_cache import FeatureCache
from continual.learning.features import FeatureMaker
from continual.learning.settings import Settings, make
from continual.learning.state import Imagining, Prediction, S, Scores, State
from continual.learning.training import Checkpoints, Progress, Training, run


class IncrementalLearner(Edits[S], FeatureMaker):
    """Learns new classes for ever on a frozen backbone; a method subclasses it.

    Create one with a backbone and settings by name, e.g. `MOSLearner(backbone, epochs=5, seed=7)` or
    `MOSLearner(backbone, preset="reference")`; an unknown or impossible setting raises InputError.

    `learn` and the edits (`correct`, `forget`, `rename`) either succeed or leave the learner as it was. `predict`
    changes nothing.
    """

    method: ClassVar[str]  #: the name in configs and on the command line
    paper: ClassVar[str]  #: where it comes from: "Author et al., VENUE YEAR, arXiv NUMBER"
    summary: ClassVar[str]  #: one line
    exemplar_free: ClassVar[bool] = True  #: False if it keeps the images it has seen
    linear_memory: ClassVar[bool] = True  #: False if memory grows by more than a fixed sum a class and an experience
    probabilities: ClassVar[bool] = True  #: False if `scores` only rank: a softmax of cosines or of regression values
    #: True if answers follow from features that no later experience changes, and that a `FeatureCache` holds
    fixed_features: ClassVar[bool] = False
    any_backbone: ClassVar[bool] = False  #: True if it reads frozen features alone, so that a CNN will do as well
    settings_type: ClassVar[type[Settings]] = Settings
    state_type: ClassVar[type[State]]

    def __init__(
        self,
        backbone: Backbone,
        *,
        device: str | torch.device | None = None,
        preset: str | None = None,
        **settings: Any,
    ) -> None:
        if not self.any_backbone:
            backbone.trunk.check_has_blocks(self.method)
        self.backbone = backbone
        self.settings: Any = make(self.settings_type, preset, **settings)
        self.state: S = self.state_type()  # type: ignore[assignment]
        self.device = torch.device(device or "cpu")
        backbone.trunk.to(self.device)

    # What a method defines -----------------------------------------------------------------------------

    @abstractmethod
    def begin(self, data: ExperienceData) -> Training[S]:
        """Start learning an experience; nothing of the learner changes before `finish` is kept."""

    @abstractmethod
    def scores(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        """Score prepared images (B, 3, H, W) on the learner's device over all classes seen.

        Features under weights that never change again may be taken from, and are then kept in, `cache`.
        """

    @abstractmethod
    def pack(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the method's own part of the state as tensors and JSON values."""

    @abstractmethod
    def unpack(self, common: State, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> S:
        """Rebuild the state from what `pack` gave and the fields that all methods share."""

    # What users call -----------------------------------------------------------------------------------

    @property
    def classes(self) -> tuple[Label, ...]:
        """The classes learned so far, by the user's own names."""
        return self.state.classes

    def learn(
        self,
        images: Any,
        labels: Any = None,
        *,
        progress: Progress | None = None,
        workers: int = 0,
        checkpoints: Checkpoints | None = None,
        decoded: int = image_cache.LIMIT,
    ) -> None:
        """Learn one experience: any number of classes, also one, with any number of images, also one.

        `images` is a folder of class folders, a data set of (image, label) pairs, or a sequence of images
        (paths, PIL, uint8) with `labels`. Classes keep the names given. A class seen before does not train
        the new adapters; its statistics and prototype become those of all its images together.

        With `checkpoints` (a `continual.learning.checkpoints.CheckpointFolder`, say) the training is kept after every
        epoch, and goes on from there if it was stopped: called again with the same images, `learn` ends with
        the same bits. They serve this one call. `decoded` bytes of opened image files are kept for later epochs.

        Raises InputError for images or labels that cannot be used, LearningError if the loss diverges;
        in either case, and when interrupted, the learner stays as it was.
        """
        data = as_experience(images, labels, self.backbone.preprocessing, decoded=decoded)
        if self.state.classes and type(self.state.classes[0]) is not type(data.labels[0]):
            raise InputError(
                f"labels are {type(data.labels[0]).__name__}, but the classes learned so far are "
                f"{type(self.state.classes[0]).__name__}: use one kind"
            )
        training = self.begin(data)
        run(training, progress, workers, checkpoints)
        self.complete(training, progress)

    def complete(self, training: Training[S], progress: Progress | None = None) -> None:
        """Finish a training and keep what it learned: the last call of every training loop.

        Raises LearningError, and keeps nothing, if an image's scores would not be finite.
        """
        probe = self.variant()
        probe.state = training.finish(progress)
        if not torch.isfinite(probe.score_batch(training.data.evaluation[0][0][None]).values).all():
            raise LearningError(
                f"experience {probe.state.updates} gave weights whose scores are not finite: lower the learning "
                "rates; the learner is as it was before"
            )
        self.state = probe.state

    def predict(
        self,
        images: Any,
        *,
        workers: int = 0,
        progress: Progress | None = None,
        cache: FeatureCache | None = None,
        unknown_rate: float | None = None,
    ) -> Prediction:
        """Answer for a sequence of images, a float batch (B, 3, H, W), a data set or folder as `learn` takes it.

        With a `cache`, images that were asked about before cost only what is new since then: worth it where
        the same test images are evaluated after every experience. With an `unknown_rate` such as 0.05, images
        unlike all classes are marked, and about that share of the known ones.

        Raises InputError before anything was learned, or for images that cannot be used.
        """
        if not self.state.classes:
            raise InputError("nothing has been learned yet: call learn first")
        if unknown_rate is not None and not 0 < unknown_rate < 1:
            raise InputError(f"unknown_rate is a share of images above 0 and below 1, got {unknown_rate}")
        if isinstance(images, str | Path) and Path(images).is_dir():
            images, _ = list_folder(images)
        images = as_images(images)
        if len(images) == 0:
            raise InputError("there are no images to predict: give at least one")
        if isinstance(images, Dataset):
            images = ImageColumn(images)
        images = PreparedImages(images, [0] * len(images), self.backbone.preprocessing, augment=False)
        parts, done = [], 0
        for batch, _ in evaluation_loader(images, self.settings.eval_batch_size, num_workers=workers):
            parts.append(self.score_batch(batch, cache))
            done = min(done + distributed.count() * len(batch), len(images))
            if progress is not None:
                progress("predicting", done, len(images), {})
        return Scores.joined(distributed.in_turn(parts)).prediction(self.state.classes, unknown_rate)

    def score_batch(self, images: Tensor, cache: FeatureCache | None = None) -> Scores:
        """Score one prepared batch, without gradients; the results lie on the CPU."""
        with torch.no_grad():
            images, symmetry = images.to(self.device), self.symmetry
            if symmetry is None or not symmetry.averages_scores:
                return self.scores(images, cache).cpu()
            views = symmetry.orbit(images)
            return Scores.averaged([self.scores(view, cache) for view in views.unbind(1)]).cpu()

    def evaluate(self, images: Any, labels: Any = None, *, workers: int = 0) -> float:
        """Return the share of images answered right; raises InputError for a class never learned."""
        data = as_experience(images, labels, self.backbone.preprocessing)
        truth = self.indices(data.labels)
        answers = self.predict(data.evaluation, workers=workers).labels
        return float((self.indices(answers) == truth).float().mean())

    def variant(self, **settings: Any) -> Self:
        """Return a learner with the same state and some settings changed (those of inference, say)."""
        values = {**self.settings.model_dump(), **settings}
        other = type(self)(self.backbone, device=self.device, **values)
        other.state = self.state
        return other

    # Files ---------------------------------------------------------------------------------------------

    def save(
        self,
        path: str | Path,
        *,
        embed_backbone: bool = False,
        notes: Mapping[str, Any] | None = None,
        seen: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Write the learner to one safetensors file, atomically.

        The frozen backbone is referenced by name, local file and SHA-256, or embedded on request. No image
        is stored. `notes` are JSON values about this version, `seen` what the command `equimos` keeps to know
        images again; a learner that was loaded has neither. Raises ModelFileError if it cannot be written.
        """
        tensors, values = self.export()
        header = {
            "method": self.method,
            "settings": self.settings.model_dump(),
            "backbone": self.backbone.describe(),
            "backbone_embedded": embed_backbone,
            **values,
            "versions": model_file.versions(),
            "notes": dict(notes or {}),
        }
        tensors = model_file.join("state", tensors) | model_file.join("seen", seen or {})
        if embed_backbone:
            tensors |= model_file.join("backbone", self.backbone.trunk.network.state_dict())
        model_file.write(path, tensors, header)

    @classmethod
    def load(
        cls,
        path: str | Path,
        backbone: Backbone | None = None,
        *,
        weights: str | Path | None = None,
        device: str | torch.device | None = None,
    ) -> Self:
        """Read a learner back.

        The backbone is the one given, the embedded one, or is found again by its name and weights file
        (`weights` says where the file is now). Raises ModelFileError for a file that is missing, damaged or
        another method's; BackboneError, with both hashes, if the backbone's weights are not the same.
        """
        tensors, header = model_file.read(path)
        if header["method"] != cls.method:
            raise ModelFileError(f"{path} holds a {header['method']!r} model, not {cls.method!r}: use continual.load")
        if backbone is None:
            moved = {} if weights is None else {"weights_file": str(weights)}
            embedded = model_file.part(tensors, "backbone") if header["backbone_embedded"] else None
            backbone = loading.rebuild({**header["backbone"], **moved}, embedded)
        else:
            loading.check_same_weights(backbone, header["backbone"])
        learner = cls(backbone, device=device, **header["settings"])
        try:
            learner.restore(model_file.part(tensors, "state"), header)
        except (KeyError, IndexError, TypeError) as error:
            raise ModelFileError(f"{path} lacks a part of the model ({error!r}): restore a copy") from error
        return learner

    def export(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the state as tensors and JSON values, for `restore`."""
        tensors, values = self.pack()
        common = {f.name: getattr(self.state, f.name) for f in fields(State) if f.name != "fitted"}
        return tensors | model_file.join("fitted", self.state.fitted), {"state": common, "method_state": values}

    def restore(self, tensors: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
        """Take the state that `export` gave; raises KeyError, IndexError or TypeError if a part is missing."""
        known: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in values["state"].items()}
        own = {name: tensor.to(self.device) for name, tensor in tensors.items()}
        common = State(**known, fitted=model_file.part(own, "fitted"))
        self.state = self.unpack(common, own, values["method_state"])

    def imagining(self, after: Self) -> Imagining | None:
        """Return what tells how images of a class would be answered by this learner, and by what it became, `after`.

        They are drawn from what this one remembers. None for methods that remember nothing that stays true.
        """
        return None

    def recall(self, experiences: Sequence[ExperienceData]) -> None:
        """Hand the images learned so far to a restored learner; methods that keep images take them."""

    def memory(self) -> dict[str, int]:
        """Return the bytes of what was learned, by part; the frozen backbone is not counted."""
        sizes: dict[str, int] = {}
        for name, tensor in self.pack()[0].items():
            part = name.split("/")[0]
            sizes[part] = sizes.get(part, 0) + tensor.numel() * tensor.element_size()
        return sizes
