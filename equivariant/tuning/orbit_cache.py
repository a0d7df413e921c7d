"""Train on a frozen backbone's features: the orbit of every image is computed once.

The cache of an image is c[g] = φ(g·x), (|G|, …), for the frozen φ. Transforming the image permutes it:
(h·c)[g] = φ(g·h·x) = c[gh]. So a wrapper around φ, acting on images, gives the same answers as the same wrapper around
c ↦ c[e], acting on caches, and nothing else about it changes.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from equivariant.actions import Action
from equivariant.checks.evaluation import Data, Tick, batches
from equivariant.groups import FiniteGroup
from equivariant.orbits import chunks, orbit
from equivariant.parts.surgery import device_of, evaluating
from equivariant.wrappers.base import OrbitWrapper


@dataclass(frozen=True)
class CachedOrbit(Action):
    """How a group acts on caches (B, |G|, …): element h brings entry gh to place g."""

    def __call__(self, group: FiniteGroup, g: int, x: Tensor) -> Tensor:
        """Return the cache of the images transformed by element g."""
        return x[:, [group.product(k, g) for k in range(group.order)]]


class _Untransformed(nn.Module):
    """c ↦ c[e]."""

    def __init__(self, identity: int) -> None:
        super().__init__()
        self.identity = identity

    def forward(self, cache: Tensor) -> Tensor:
        return cache[:, self.identity]


def cache_views(wrapper: OrbitWrapper, data: Data, batch_size: int, tick: Tick | None = None) -> tuple[Tensor, Tensor]:
    """Return the model's output for every view of every image, (N, |G|, …), and the labels (N,), on the CPU."""
    caches, truth = [], []
    with evaluating(wrapper):
        for images, labels in batches(data, device_of(wrapper), batch_size, tick=tick):
            wrapper.check_input(images)
            parts = []
            for elements in chunks(wrapper.group.order, wrapper.chunk):
                views = orbit(wrapper.group, images, wrapper.input, elements)
                parts.append(wrapper.model(views.flatten(0, 1)).unflatten(0, views.shape[:2]))
            caches.append(torch.cat(parts).transpose(0, 1).cpu())
            truth.append(labels.cpu())
    return torch.cat(caches), torch.cat(truth)


@contextmanager
def on_caches(wrapper: OrbitWrapper) -> Iterator[None]:
    """Let the wrapper take caches instead of images, for a while."""
    model, action = wrapper.model, wrapper.input
    wrapper.model, wrapper.input = _Untransformed(wrapper.group.identity), CachedOrbit()
    try:
        yield
    finally:
        wrapper.model, wrapper.input = model, action
