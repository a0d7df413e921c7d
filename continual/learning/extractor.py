"""What gives features of images: a frozen backbone, at a precision, on a device, of the views a symmetry asks for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property, partial
from itertools import islice
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Subset

from continual import distributed
from continual.adapters.base import Adapters, serving
from continual.backbones import described
from continual.backbones.base import SharedStem, TokenPart
from continual.backbones.loading import Backbone
from continual.backbones.vit import FrozenViT
from continual.data.inputs import ExperienceData, Label
from continual.data.loaders import evaluation_loader
from continual.errors import InputError, LearningError
from continual.learning.feature_cache import FeatureCache, cached
from continual.learning.feature_store import Store
from continual.learning.settings import Settings
from continual.seeding import generator
from continual.symmetry.base import Symmetry
from continual.symmetry.choice import NO_UP, GroupChoice
from continual.symmetry.equitune import Equitune
from continual.symmetry.group_evidence import MOST_IMAGES, choice_of, some_of_each
from continual.symmetry.views import Transformed, group_named

#: batches that several processes read together before they are exchanged, but one each at least
EXCHANGED = 64

#: progress(stage, done, total, figures) says how far some work is
Progress = Callable[[str, int, int, dict[str, float]], None]


@dataclass(frozen=True)
class Extractor:
    """Gives features of prepared images (B, 3, H, W)."""

    backbone: Backbone
    precision: str = "float32"
    device: torch.device = torch.device("cpu")
    symmetry: Symmetry | None = None  #: what is made of an image's views, if there is a group
    store: Store | None = None  #: where features are that were computed before

    @cached_property
    def untransformed(self) -> Extractor:
        """The same without a symmetry: features of images as they are given."""
        return replace(self, symmetry=None)

    def stem(self, images: Tensor, prompts: Tensor | None = None, reads: int = 0) -> SharedStem:
        """Return what the features of prepared images under any adapters have in common; see `FrozenViT.stem`."""
        with self._autocast():
            frozen, symmetry = self.backbone.frozen, self.symmetry
            if symmetry is None:
                return frozen.stem(images, prompts, reads=reads)
            views, weights = symmetry.look(frozen, images)
            each = views.shape[0] // images.shape[0]
            prompts = None if prompts is None else prompts.repeat_interleave(each, 0)
            return frozen.stem(views, prompts, reads=reads).of_views(each, weights)

    def features(self, images: Tensor | SharedStem, adapters: Adapters | None = None, **options: Any) -> Tensor:
        """Return features (B, D), under its precision; arguments as in `FrozenViT.features`."""
        frozen, symmetry = self.backbone.frozen, self.symmetry
        if symmetry is None or (isinstance(images, Tensor) and adapters is None):
            plain = isinstance(images, Tensor) and adapters is None and not options
            reading = "features" if plain else None
            return self._over_views(images, lambda views: frozen.features(views, adapters, **options), reading)
        stem = images if isinstance(images, SharedStem) else self.stem(images, reads=serving(adapters).reads)
        with self._autocast():
            found = frozen.features(stem, adapters, **options)
        return symmetry.mean(found, stem.views, stem.weights)

    def features_and_some(self, stem: SharedStem, adapters: Adapters | None, views: int) -> tuple[Tensor, Tensor]:
        """Return features (B, D), and the mean of those of each image's first `views` views (B, D), from one pass."""
        assert self.symmetry is not None
        with self._autocast():
            found = self.backbone.frozen.features(stem, adapters)
        each = found.unflatten(0, (-1, stem.views))
        return self.symmetry.mean(found, stem.views, stem.weights), each[:, :views].mean(1)

    def described(self, views: Tensor) -> Tensor:
        """Return what the symmetry reads of views (B, m, 3, H, W), (B, m, K), to tell how they count."""
        assert self.symmetry is not None
        with self._autocast():
            return self.symmetry.describe(self.backbone.frozen, views)

    def noted(self, views: Tensor) -> Tensor:
        """Return what has to be known of views (B, 3, H, W), each by itself, to tell how they count, (B, K)."""
        assert self.symmetry is not None
        with self._autocast():
            return self.symmetry.noted(self.backbone.frozen, views)

    def token_parts(self, images: Tensor, blocks: int, patches: bool) -> list[TokenPart] | None:
        """Return what `block_tokens` averages, of images as they are given; None where a backbone cannot say."""
        with self._autocast():
            return self.backbone.frozen.token_parts(images, blocks, patches=patches)

    def block_tokens(
        self, images: Tensor, blocks: int, *, patches: bool = True, adapters: Adapters | None = None
    ) -> Tensor:
        """Return what the last blocks say of prepared images, side by side (B, D'); see `FrozenBackbone.block_tokens`.

        With `adapters` a ViT says it under them. Raises InputError for a symmetry that reads from features how a view
        counts.
        """
        if self.symmetry is not None and self.symmetry.reads_features:
            raise InputError(
                f"{self.symmetry.name} reads from a backbone's last features how a view counts, and this method reads "
                "other tokens: choose symmetry='frame'"
            )
        frozen = self.backbone.frozen
        if adapters is not None:
            assert isinstance(frozen, FrozenViT)
            adapted = partial(frozen.block_tokens, blocks=blocks, patches=patches, adapters=adapters)
            return self._over_views(images, adapted)
        reading = f"{'tokens' if patches else 'class tokens'} of {blocks} blocks"
        return self._over_views(images, lambda views: frozen.block_tokens(views, blocks, patches=patches), reading)

    def _over_views(self, images: Any, compute: Callable[[Any], Tensor], reading: str | None = None) -> Tensor:
        """Return the weighted mean (B, K) of what `compute` makes of the views (B m, 3, H, W) that are looked at.

        `reading` is what the frozen network alone decides of them, in words, and may come from the store.
        """
        if self.store is not None and reading is not None and not torch.is_grad_enabled():
            compute = partial(self.store.features, reading=self._key(reading), compute=compute)
        with self._autocast():
            if self.symmetry is None:
                return compute(images)
            views, weights = self.symmetry.look(self.backbone.frozen, images)
            found = compute(views)
        return self.symmetry.mean(found, views.shape[0] // images.shape[0], weights)

    def frozen_features(self, images: Tensor, cache: FeatureCache | None = None) -> Tensor:
        """Return features (B, D) without adapters, from `cache` where it has them."""
        return cached(cache, images, "frozen", self.features)

    def _key(self, reading: str) -> dict[str, Any]:
        """Return all that decides features besides the prepared image."""
        about = self.backbone.describe()
        parts = [{key: value for key, value in part.items() if key != "weights_file"} for part in described(about)]
        known = {**about, "parts": parts} if len(parts) > 1 else parts[0]
        how = {"precision": self.precision, "device": self.device.type, "torch": torch.__version__}
        return {"reading": reading, "backbone": known, **how}

    def _autocast(self) -> AbstractContextManager[Any]:
        lower = self.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16) if lower else nullcontext()


def extract(
    dataset: Any,
    compute: Callable[[Tensor, Sequence[Label]], Sequence[Tensor]],
    batch_size: int,
    device: torch.device,
    progress: Progress | None = None,
    workers: int = 0,
) -> tuple[list[Tensor], list[Label]]:
    """Run `compute(images, labels) -> several (B, D)` over the evaluation view of a data set.

    Returns each of its results joined over the data set, (n, D), and the labels (n). No gradients. Raises
    LearningError if a result is not finite.
    """
    parts, names = zip(*extracted(dataset, compute, batch_size, device, progress, workers), strict=True)
    joined = [torch.cat(column) for column in zip(*parts, strict=True)]
    return joined, [label for labels in names for label in labels]


def extracted(
    dataset: Any,
    compute: Callable[[Tensor, Sequence[Label]], Sequence[Tensor]],
    batch_size: int,
    device: torch.device,
    progress: Progress | None = None,
    workers: int = 0,
) -> Iterator[tuple[list[Tensor], Sequence[Label]]]:
    """Yield what `extract` joins, batch by batch; of several processes, each yields all batches, in order."""
    loader, done = iter(evaluation_loader(dataset, batch_size, num_workers=workers)), 0
    together = 1 if distributed.count() == 1 else max(1, EXCHANGED // distributed.count())
    for _ in range(-(-len(dataset) // (batch_size * distributed.count() * together))):
        parts = []
        with torch.no_grad():
            for images, labels in islice(loader, together):
                parts.append((list(compute(images.to(device), labels)), labels))
                done = min(done + distributed.count() * len(labels), len(dataset))
                if progress is not None:
                    progress("collecting features", done, len(dataset), {})
        for found, labels in distributed.in_turn(parts):
            columns = [values.to(device) for values in found]
            if not all(torch.isfinite(values).all() for values in columns):
                raise LearningError(
                    "features of the training images are NaN or infinite: the adapters diverged (lower lr) or the "
                    "images hold such values; the learner is as it was before"
                )
            yield columns, labels


def single_views(
    extractor: Extractor, settings: Settings, fitted: Mapping[str, Tensor], data: ExperienceData, *, first: bool
) -> tuple[Extractor, ExperienceData, Mapping[str, Tensor]]:
    """Return what a training asks for features to remember, its data, and what the symmetry has fitted to images.

    What is trained sees one view of an image at a time, at random if `transformed_training` says so. What is remembered
    is every view by itself (`orbit_statistics`), or what the symmetry makes of an image. A symmetry that learns is
    fitted to the images of the `first` experience; `fitted` is what it found then.
    """
    symmetry = extractor.symmetry
    if symmetry is None:
        return extractor, data, fitted
    if first:
        fitted = fit_symmetry(extractor, symmetry, data, settings.eval_batch_size)
    training, evaluation, labels = data.training, data.evaluation, data.labels
    if settings.transformed_training:
        training = Transformed(training, symmetry.group)
    if settings.orbit_statistics:
        seeing = extractor.untransformed
        elements = range(symmetry.group.order)
        each = [image for image in range(len(labels)) for _ in elements]
        labels = [labels[image] for image in each]
        evaluation = Transformed(Subset(evaluation, each), symmetry.group, [*elements] * len(data.labels))
    else:
        seeing = replace(extractor, symmetry=replace(symmetry, fitted=fitted))
    return seeing, ExperienceData(training, evaluation, labels, data.value_range, data.unlabelled), fitted


def choose_group(
    extractor: Extractor, data: ExperienceData, settings: Settings, progress: Progress | None = None, workers: int = 0
) -> GroupChoice:
    """Return which group the images of an experience say that they have; see `every_view`."""
    return choice_of(*every_view(extractor, data, settings, progress, workers))


def every_view(
    extractor: Extractor, data: ExperienceData, settings: Settings, progress: Progress | None = None, workers: int = 0
) -> tuple[Tensor, Tensor]:
    """Return features (n, 8, D) of all views under D4, the images as given first, and class indices (n,).

    At most `MOST_IMAGES` are asked, drawn from all classes. Raises InputError for inputs that are not square.
    """
    symmetry = Equitune(group_named(NO_UP))
    rows = some_of_each(data.labels, MOST_IMAGES, generator(settings.seed, "images that decide on a group"))

    def features(images: Tensor, _: Sequence[Label]) -> Sequence[Tensor]:
        views = symmetry.views(images)
        return [extractor.untransformed.features(views.flatten(0, 1)).unflatten(0, views.shape[:2])]

    few = max(1, settings.eval_batch_size // symmetry.group.order)
    (found,), labels = extract(Subset(data.evaluation, rows), features, few, extractor.device, progress, workers)
    return found.cpu(), _indices(labels)


def fit_symmetry(extractor: Extractor, symmetry: Symmetry, data: ExperienceData, batch_size: int) -> dict[str, Tensor]:
    """Return what a symmetry has to know of images, from those of the first experience."""
    if not symmetry.learns:
        return {}

    def described(images: Tensor, _: Sequence[Label]) -> Sequence[Tensor]:
        return [extractor.described(symmetry.views(images))]

    (found,), labels = extract(data.evaluation, described, batch_size, extractor.device)
    return symmetry.fit(found, _indices(labels).to(extractor.device))


def _indices(labels: Sequence[Label]) -> Tensor:
    index = {label: i for i, label in enumerate(dict.fromkeys(labels))}
    return torch.tensor([index[label] for label in labels])
