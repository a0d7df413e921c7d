"""Features of images under each of a bank's adapters: a forward pass for each, with what they share made once."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from continual.adapters.base import Adapters, serving
from continual.learning.extractor import Extractor
from continual.learning.feature_cache import FeatureCache, cached


def under_each(extractor: Extractor, served: Sequence[Adapters], images: Tensor) -> list[Tensor]:
    """Return the features (B, D) of prepared images under each adapter."""
    stem = extractor.stem(images, reads=max(serving(adapters).reads for adapters in served))
    return [extractor.features(stem, adapters) for adapters in served]


def remembered_under_each(
    extractor: Extractor, served: Sequence[Adapters], images: Tensor, cache: FeatureCache | None
) -> Tensor:
    """Return the features (T, B, D) of prepared images under every finished adapter, from `cache` where it has them."""
    if cache is None:
        return torch.stack(under_each(extractor, served, images))
    computes = [partial(extractor.features, adapters=adapters) for adapters in served]
    return torch.stack([cached(cache, images, ("stack", number), own) for number, own in enumerate(computes)])
