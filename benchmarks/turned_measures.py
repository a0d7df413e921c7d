"""What `turned_images.py` measures of a row, and the memory that keeps a frozen network from running twice."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

import equivariant as eq
from continual.learning.feature_cache import FeatureCache
from equivariant.ties import default_tolerance, top

Images = tuple[Tensor, Tensor]  #: inputs (N, 3, H, W) and labels (N,)


class Remembered(nn.Module):
    """A frozen module that is run once on each input, unless `cache` is None."""

    def __init__(self, module: Callable[[Tensor], Tensor], share: float = 1.0) -> None:
        super().__init__()
        self.module, self.share = module, share
        self.cache: FeatureCache | None = FeatureCache()
        self.asked = 0  #: inputs asked for

    def forward(self, x: Tensor) -> Tensor:
        self.asked += len(x)
        if self.cache is None:
            return self.module(x)
        with torch.no_grad():
            return self.cache.features(x, [None] * len(x), lambda rows: self._batches(x[rows]))

    def _batches(self, x: Tensor) -> Tensor:
        return torch.cat([self.module(part) for part in x.split(32)])


@contextmanager
def without_memory(places: list[Remembered]) -> Iterator[None]:
    """Run the network on every input, as if nothing were remembered."""
    caches = [place.cache for place in places]
    for place in places:
        place.cache = None
    try:
        yield
    finally:
        for place, cache in zip(places, caches, strict=True):
            place.cache = cache


def finds_upright(wrapper: eq.WeightedWrapper, images: Tensor) -> Tensor:
    """Return for which upright images (B,) the heaviest view is upright, as it is or mirrored left to right.

    Where others are as heavy, it was not found.
    """
    with torch.no_grad():
        weights = wrapper.orbit_weights(images)
    heaviest = top(weights, 1, default_tolerance(weights.dtype))
    turned = [k for k, name in enumerate(wrapper.group.names) if name not in ("e", "mirror_h")]
    return ~heaviest[turned].any(0)


def measure(model: nn.Module, g: eq.FiniteGroup, test: Images, places: list[Remembered]) -> dict[str, float | None]:
    """Return accuracy upright and transformed, consistency, flip rate, invariance error and passes per image."""
    images, labels = test
    model.eval()
    for place in places:
        place.asked = 0
    answers = eq.orbit_answers(model, g, images.split(100))
    passes = sum(place.asked * place.share for place in places) / (g.order * len(labels))
    right = (answers == labels).double().mean(1)
    choosing = (m for m in model.modules() if isinstance(m, eq.WeightedWrapper) and not isinstance(m, eq.Equitune))
    wrapper = next(choosing, None)
    found = None if wrapper is None else [finds_upright(wrapper, x) for x in images.split(100)]
    with without_memory(places):  # it would hide any error
        error = eq.equivariance_error(model, g, images[:4]).largest
    return {
        "upright": float(right[g.identity]),
        "turned": float(right.mean()),
        "consistency": eq.orbit_consistency(answers),
        "flips": eq.orbit_flip_rate(answers, labels, g.identity),
        "found": None if found is None else float(torch.cat(found).double().mean()),
        "error": error,
        "passes": passes,
    }


def time_ratio(model: nn.Module, plain: nn.Module, images: Tensor, places: list[Remembered], repeats: int = 3) -> float:
    """Return the median over interleaved pairs of the model's time for `images`, over plain's."""

    def seconds(m: nn.Module) -> float:
        started = time.perf_counter()
        with torch.no_grad():
            m(images)
        return time.perf_counter() - started

    with without_memory(places):
        seconds(plain)
        return statistics.median(seconds(model) / seconds(plain) for _ in range(repeats))
