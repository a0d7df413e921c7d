"""Train what weighs views without labels: of all views of an upright image, the one as it is shall score best."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from equivariant.checks.evaluation import Data, Scored, batches
from equivariant.errors import InputError
from equivariant.parts.surgery import device_of, evaluating
from equivariant.ties import default_tolerance, top
from equivariant.wrappers import find_wrapper
from equivariant.wrappers.base import WeightedWrapper


def wrapper_of(model: nn.Module) -> WeightedWrapper:
    """Return the wrapper in a model that scores views; raises InputError if there is none."""
    found = find_wrapper(model)
    if not isinstance(found, WeightedWrapper):
        raise InputError("nothing here scores views: use LambdaEquitune, Canonicaliser or PrunedOrbit")
    return found


def loss(wrapper: WeightedWrapper, images: Tensor) -> Tensor:
    """Return the mean over upright images (B, …) of -log softmax_g(s(g·x))[e]."""
    scores = wrapper.orbit_scores(images).float().T
    return functional.cross_entropy(scores, _identity(wrapper, images))


def score(model: nn.Module, data: Data, batch_size: int) -> Scored:
    """Return the share of upright images whose view as given scores best, ties not counted, and the loss."""
    wrapper, found, total, count = wrapper_of(model), 0, 0.0, 0
    with evaluating(model):
        for images, _ in batches(data, device_of(model), batch_size):
            scores = wrapper.orbit_scores(images)
            best = top(scores, 1, default_tolerance(scores.dtype))
            found += int((best[wrapper.group.identity] & (best.sum(0) == 1)).sum())
            targets = _identity(wrapper, images)
            total += float(functional.cross_entropy(scores.float().T, targets, reduction="sum"))
            count += images.shape[0]
    return Scored(found / count, total / count, passes=1.0, finished=1.0)


def _identity(wrapper: WeightedWrapper, images: Tensor) -> Tensor:
    return torch.full((images.shape[0],), wrapper.group.identity, device=images.device)
