"""Which images of an unlabelled pool to label, within a budget: by image features, or by patterns in them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from continual import distributed
from continual.backbones.loading import Backbone
from continual.backbones.patches import attended_patches, check_attends
from continual.data.inputs import PreparedImages, paths_of, range_of, to_predict
from continual.data.loaders import evaluation_loader
from continual.data.ranges import ValueRange
from continual.errors import InputError
from continual.learning.extractor import Extractor, Progress
from continual.learning.learner import IncrementalLearner
from continual.seeding import generator
from continual.selection.centres import nearest_to_centres
from continual.selection.patterns import by_patterns, patterns_of

By = Literal["image", "patterns"]

#: how much more an image counts the surer it is of no known class: (1 - p-value) to this power
NOVELTY = 4.0


@dataclass(frozen=True)
class Selection:
    """Which images of a pool to label, those first that stand for most."""

    indices: list[int]  #: places in the pool
    stands_for: list[int] | None  #: how many images of the pool each stands for; None by patterns
    paths: list[Path] | None  #: where they lie, if the pool is of files


def select(
    images: Any,
    budget: int,
    backbone: Backbone | None = None,
    *,
    by: By = "image",
    known: IncrementalLearner[Any] | None = None,
    seed: int = 1993,
    batch_size: int = 64,
    workers: int = 0,
    progress: Progress | None = None,
    value_range: ValueRange | None = None,
) -> Selection:
    """Choose `budget` of some images, as `predict` takes them, to be labelled.

    By "image", k-means makes as many groups of the backbone's features, and of each the image nearest to its centre is
    chosen; the budget must be known, as fewer are not the first of more. By "patterns" (FreeSel), images are drawn by
    what the last blocks of a ViT attend to in them; a budget's choice then begins with that of a smaller one.

    `value_range` says what numbers in images mean, as for `learn`; a known learner remembers it.

    A learner that is `known` gives its backbone, and images that it takes for a class of its own count less. Raises
    InputError for a budget above the pool, BackboneError for patterns of a network without a class token's attention.
    """
    if by not in ("image", "patterns"):
        raise InputError(f"images are selected by 'image' or by 'patterns', not by {by!r}")
    if (backbone is None) == (known is None):
        raise InputError("select takes a backbone, or a known learner, whose backbone is used: give one of them")
    if not isinstance(budget, Integral):
        raise InputError(f"the budget is a number of images, got {budget!r}")
    extractor = _extractor(backbone, known)
    pool = to_predict(images, extractor.backbone.preprocessing.channels)
    if budget < 1 or budget > len(pool):
        raise InputError(f"the budget is {budget}, and there are {len(pool)} images: ask for 1 to {len(pool)}")
    read = reader(extractor, by)
    found: list[Any] = []
    novel: list[Tensor] = []
    with torch.no_grad():
        own, remembered = extractor.backbone.preprocessing, None if known is None else known.state.value_range
        name = range_of(pool, value_range, remembered, own.channels)
        data = PreparedImages(pool, [0] * len(pool), own, augment=False, value_range=name)
        done = 0
        for batch, _ in evaluation_loader(data, batch_size, num_workers=workers):
            found.append(read(batch.to(extractor.device)))
            if known is not None:
                novel.append(novelty(known, batch))
            done = min(done + distributed.count() * len(batch), len(pool))
            if progress is not None:
                progress("looking at the pool", done, len(pool), {})
    weights = torch.cat([*distributed.in_turn(novel)]) if novel else None
    indices, sizes = chosen(distributed.in_turn(found), budget, by, seed, weights)
    paths = paths_of(pool)
    return Selection(indices, sizes, None if paths is None else [paths[i] for i in indices])


def chosen(
    found: Sequence[Any], budget: int, by: By, seed: int, weights: Tensor | None = None
) -> tuple[list[int], list[int] | None]:
    """Return places, and how many images each stands for, of what a pool's batches gave: features, or patterns."""
    if by == "image":
        return nearest_to_centres(torch.cat(list(found)), budget, seed, weights)
    every = [patterns for batch in found for patterns in batch]
    return by_patterns(every, budget, generator(seed, "patterns"), weights), None


def novelty(known: IncrementalLearner[Any], images: Tensor) -> Tensor:
    """Return how much prepared images (B, 3, H, W) count that a learner may know (B,): little for those it does.

    Raises InputError for a learner that cannot say what is unlike its classes.
    """
    p_value = known.score_batch(images).p_value
    if p_value is None:
        raise InputError(
            f"a model of {known.method} like this cannot say which images are unlike its classes: take one of strata, "
            "ridge, mos or slca with two classes, or select without a known model"
        )
    return (1 - p_value).clamp(0, 1) ** NOVELTY


def reader(extractor: Extractor, by: By) -> Callable[[Tensor], Any]:
    """Return what reads, of prepared images (B, 3, H, W), features (B, D), or the patterns (K, D) of each.

    Raises BackboneError for a network in which there are no patterns to be read.
    """
    if by == "image":
        return lambda images: extractor.features(images).cpu()
    vit = check_attends(extractor.backbone.frozen)

    def patterns(images: Tensor) -> list[Tensor]:
        pairs = zip(*attended_patches(vit, images), strict=True)
        return [patterns_of(patches, looked).cpu() for patches, looked in pairs]

    return patterns


def _extractor(backbone: Backbone | None, known: IncrementalLearner[Any] | None) -> Extractor:
    if known is not None:
        return known.extractor.untransformed
    assert backbone is not None
    return Extractor(backbone, device=next(backbone.frozen.parameters()).device)
