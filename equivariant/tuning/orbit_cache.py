"""Train on what a frozen network makes of images: the orbit of every image is computed once.

The cache of an image is c[g] = φ(g·x), (|G|, …), for the frozen φ. Transforming the image permutes it:
(h·c)[g] = φ(g·h·x) = c[gh]. So a wrapper around ψ∘φ, acting on images, gives the same answers as the same wrapper
around c ↦ ψ(c[e]), acting on caches, and nothing else about it changes. φ is the model's frozen part, and ψ what is
trained of it: nothing, or the last modules of an `nn.Sequential`.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from equivariant.actions import Action
from equivariant.checks.evaluation import Data, Tick, batches
from equivariant.errors import InputError
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


def frozen_modules(model: nn.Module) -> int:
    """Return how many modules of a `Sequential` nothing is trained in, up to the last one with weights before ψ.

    Any other model counts as one; 0 if its first weights are trained.
    """
    parts = list(model) if type(model) is nn.Sequential else [model]
    count = 0
    for place, part in enumerate(parts, 1):
        weights = list(part.parameters())
        if any(weight.requires_grad for weight in weights):
            return count
        count = place if weights else count
    return len(parts)


def cache_views(wrapper: OrbitWrapper, data: Data, batch_size: int, tick: Tick | None = None) -> tuple[Tensor, Tensor]:
    """Return what the model's frozen part makes of every view of every image, (N, |G|, …), and labels (N,), on the CPU.

    Raises InputError if that is no tensor.
    """
    model, count = wrapper.model, frozen_modules(wrapper.model)
    first = model[:count] if type(model) is nn.Sequential and count < len(model) else model
    caches, truth = [], []
    with evaluating(wrapper):
        for images, labels in batches(data, device_of(wrapper), batch_size, tick=tick):
            wrapper.check_input(images)
            parts = []
            for elements in chunks(wrapper.group.order, wrapper.chunk):
                views = orbit(wrapper.group, images, wrapper.input, elements)
                output = first(views.flatten(0, 1))
                if not isinstance(output, Tensor):
                    raise InputError(
                        f"what is kept of images must be one tensor, and {type(first).__name__} gives a "
                        f"{type(output).__name__}: say Recipe(..., cache=False)"
                    )
                parts.append(output.unflatten(0, views.shape[:2]))
            caches.append(torch.cat(parts).transpose(0, 1).cpu())
            truth.append(labels.cpu())
    return torch.cat(caches), torch.cat(truth)


@contextmanager
def on_caches(wrapper: OrbitWrapper) -> Iterator[None]:
    """Let the wrapper take caches instead of images, for a while."""
    model, action = wrapper.model, wrapper.input
    wrapper.model, wrapper.input = _after_cache(model, wrapper.group.identity), CachedOrbit()
    try:
        yield
    finally:
        wrapper.model, wrapper.input = model, action


def _after_cache(model: nn.Module, identity: int) -> nn.Module:
    """Return what takes caches in a model's place; what is trained keeps its name."""
    count = frozen_modules(model)
    if type(model) is not nn.Sequential or count == len(model):
        return _Untransformed(identity)
    return nn.Sequential(OrderedDict({"cached": _Untransformed(identity), **dict(model[count:].named_children())}))
