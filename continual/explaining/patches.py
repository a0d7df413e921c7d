"""Which patches carried the value of a regression on tokens: exactly, as the value is a sum over them.

A regression on the means of tokens is linear: f(x) = b + w x, x the mean over positions p of tokens z_p. So with the
mean m of all features, f(x) = (b + w m) + sum_p w (z_p - m) / P: what every image gets, and a share of each position.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from continual.backbones.base import TokenPart
from continual.learning.learner import IncrementalLearner
from continual.learning.state import learned
from continual.methods.strata import StrataLearner


def divisible(learner: IncrementalLearner) -> bool:
    """Tell whether the learner's values are sums over patches."""
    if not isinstance(learner, StrataLearner) or learner.symmetry is not None:
        return False
    shape = (1, *learner.preprocessing.shape)
    with torch.no_grad():
        found = learner.backbone.frozen.token_parts(
            torch.zeros(shape, device=learner.device), 1, patches=learner.settings.patches
        )
    return found is not None and any(part.grid for part in found)


def divided(
    learner: StrataLearner, image: Tensor, index: int, against: int | None = None
) -> tuple[float, float, float, NDArray[np.float64]]:
    """Return value, base, and the shares of the whole image and of its places (rows, columns) for one class.

    `image` is prepared, (C, H, W). With `against` they are those of the difference of two classes' values.
    """
    own, head = learner.settings, learned(learner.current.head)
    weight, bias = head.weight.double(), head.bias.double()
    direction = weight[:, index] - (0 if against is None else weight[:, against])
    offset = bias[index] - (0 if against is None else bias[against])
    mean = learned(learner.state.sums).moments()[0].double()
    views = [False, True] if learner.mirrored and own.answer_views == 2 else [False]
    whole, grids = 0.0, list[NDArray[np.float64]]()
    given = image[None].to(learner.device)
    with torch.no_grad():
        for mirrored in views:
            parts = learner.extractor.token_parts(given.flip(-1) if mirrored else given, own.blocks, own.patches)
            found, maps = _shares(parts or [], direction, mean)
            whole += found / len(views)
            grids += [np.ascontiguousarray(grid[:, ::-1] if mirrored else grid) / len(views) for grid in maps]
        values = learned(learner.current.head)(learner.design_features(learner.extractor, given))[0]
    shape = max((grid.shape for grid in grids), key=lambda size: size[0] * size[1], default=(1, 1))
    places = sum((spread(grid, shape) for grid in grids), np.zeros(shape))
    base = float(offset + mean @ direction)
    value = float(values[index]) - (0.0 if against is None else float(values[against]))
    return value, base, whole, places


def _shares(parts: list[TokenPart], direction: Tensor, mean: Tensor) -> tuple[float, list[NDArray[np.float64]]]:
    """Return what parts of the whole image add, and what the positions of each other part add."""
    whole, maps, start = 0.0, list[NDArray[np.float64]](), 0
    for part in parts:
        width = part.values.shape[-1]
        rows = slice(start, start + width)
        each = (part.values[0].double() - mean[rows]) @ direction[rows] / part.values.shape[1]
        if part.grid is None:
            whole += float(each.sum())
        else:
            maps.append(each.reshape(part.grid).cpu().numpy())
        start += width
    return whole, maps


def spread(grid: NDArray[np.float64], shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Return a grid in another shape, each cell shared out by how much of it others cover: the sum stays.

    >>> spread(np.array([[1.0, 2.0]]), (2, 4)).tolist()
    [[0.25, 0.25, 0.5, 0.5], [0.25, 0.25, 0.5, 0.5]]
    """
    down, across = (_overlap(have, want) for have, want in zip(grid.shape, shape, strict=True))
    return down @ grid @ across.T


def _overlap(have: int, want: int) -> NDArray[np.float64]:
    """Return which share (want, have) of each of `have` equal lengths lies in each of `want`."""
    edges, other = np.arange(have + 1) / have, np.arange(want + 1) / want
    low = np.maximum(edges[None, :-1], other[:-1, None])
    high = np.minimum(edges[None, 1:], other[1:, None])
    return np.clip(high - low, 0, None) * have
