"""Wrappers by name, around any classifier, and what is measured of them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from continual.experiments.equivariance.config import PLAIN, WrapperConfig
from continual.learning.extractor import Progress
from continual.symmetry.views import refusals
from equivariant.actions import Action, Images
from equivariant.checks.equivariance import orbit_answers, orbit_consistency, orbit_flip_rate
from equivariant.checks.evaluation import Tick, batches
from equivariant.groups import FiniteGroup
from equivariant.parts.surgery import device_of, evaluating
from equivariant.tuning.orbit_cache import CachedOrbit, cache_views
from equivariant.wrappers import find_wrapper, wrapper_named
from equivariant.wrappers.base import Network, OrbitWrapper, WeightedWrapper
from equivariant.wrappers.equitune import Equitune

Data = Dataset[Any]  #: of (image (C, H, W) or its views' features (|G|, D), label)


class Features(nn.Module):
    """A network's features (n, D) of images (n, C, H, W), or remembered ones: (n, |G|, D), of every view."""

    def __init__(self, network: nn.Module, identity: int) -> None:
        super().__init__()
        self.network, self.identity = network, identity

    def forward(self, x: Tensor) -> Tensor:
        """Return the features of the images as they are."""
        return self.network(x) if x.ndim == 4 else x[:, self.identity]


def wrapped(config: WrapperConfig, features: nn.Module, head: nn.Module | None, group: FiniteGroup) -> nn.Module:
    """Return a model that gives class scores (or features, without a head), made equivariant by a config.

    Neither part is copied. Raises InputError if the wrapper cannot be had around them.
    """
    network = Network(Features(features, group.identity), nn.Identity() if head is None else head, features)
    if config.wrapper == PLAIN:
        return network.whole
    with refusals():
        return wrapper_named(config.wrapper).around(network, group, config.chunk, **config.options)


def tuned_parts(model: nn.Module, head: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Return the parameters a stage of a recipe may train, by its name."""
    wrapper = find_wrapper(model)
    return {"weights": wrapper.weight_parameters() if wrapper else [], "head": list(head.parameters())}


@dataclass(frozen=True)
class Measures:
    """A classifier's answers over the orbit of every test image; shares in [0, 1]."""

    upright: float  #: accuracy on the images as they are
    turned: float  #: mean accuracy over all elements
    consistency: float  #: images with the same answer over the whole orbit
    flips: float  #: pairs (image, element but the identity) right on x and wrong on g·x
    by_element: dict[str, float] = field(default_factory=dict)  #: accuracy on images transformed by each element
    weights: dict[str, float] = field(default_factory=dict)  #: mean weight of each element on the images as they are


def remembers(model: nn.Module, group: FiniteGroup) -> bool:
    """Whether a model of `wrapped` can be measured on remembered features: it must see images through them alone.

    Interpolated rotations do not compose exactly, which remembered views would hide.
    """
    wrapper = find_wrapper(model)
    return group.exact and (wrapper is None or wrapper.through_model)


def remembered(features: nn.Module, group: FiniteGroup, data: Data, batch_size: int, tick: Tick | None = None) -> Data:
    """Return the features of every view of every image, (|G|, D), with the labels, as data to measure on."""
    return TensorDataset(*cache_views(Equitune(features, group, chunk=1), data, batch_size, tick))


def measure(
    model: nn.Module, group: FiniteGroup, data: Data, batch_size: int = 64, tick: Tick | None = None
) -> Measures:
    """Measure a model of `wrapped` on images, or on what `remembered` made of them.

    The group may be another than the wrapper's; there are no weights of its elements then.
    """
    wrapper = find_wrapper(model)
    weighing = wrapper if isinstance(wrapper, WeightedWrapper) and wrapper.group == group else None
    answers, labels, weights = [], [], torch.zeros(group.order, dtype=torch.float64)
    with _fitting(wrapper, data) as action, refusals(), evaluating(model):
        for images, truth in batches(data, device_of(model), batch_size, tick=tick):
            answers.append(orbit_answers(model, group, images, input=action).cpu())
            labels.append(truth.cpu())
            if weighing is not None:
                weights += weighing.orbit_weights(images).sum(1).double().cpu()
    found, truth = torch.cat(answers, 1), torch.cat(labels)
    right = (found == truth).double().mean(1)
    shares = weights / len(truth) if weighing is not None else torch.empty(0)
    upright, turned = float(right[group.identity]), float(right.mean())
    consistency, flips = orbit_consistency(found), orbit_flip_rate(found, truth, group.identity)
    by_element = dict(zip(group.names, right.tolist(), strict=True))
    by_weight = dict(zip(group.names, shares.tolist(), strict=False))
    return Measures(upright, turned, consistency, flips, by_element, by_weight)


@dataclass
class Measuring:
    """Measures models around one network on the same images; the features of their views are computed once."""

    features: nn.Module
    group: FiniteGroup
    data: Data
    batch_size: int
    progress: Progress
    views: Data | None = None

    def __call__(self, model: nn.Module, stage: str, *, frozen: bool = True) -> Measures:
        """Measure a model of `wrapped`; `frozen` says whether the network in it is still the one that was given."""
        data = self.data
        if frozen and remembers(model, self.group):
            tick = self._counting("features of test images")
            data = self.views = self.views or remembered(self.features, self.group, data, self.batch_size, tick)
        return measure(model, self.group, data, self.batch_size, self._counting(stage))

    def _counting(self, stage: str) -> Tick:
        return lambda done, total: self.progress(stage, done, total, {})


@contextmanager
def _fitting(wrapper: OrbitWrapper | None, data: Data) -> Iterator[Action]:
    """Yield how the group acts on the data, images or remembered views, and let the wrapper act so for a while."""
    action: Action = Images() if data[0][0].ndim == 3 else CachedOrbit()
    before = wrapper.input if wrapper else action
    try:
        if wrapper:
            wrapper.input = action
        yield action
    finally:
        if wrapper:
            wrapper.input = before
