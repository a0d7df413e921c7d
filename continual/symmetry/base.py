"""Answers that do not change when an image is turned or mirrored: which of its views are looked at, and how they count.

An image's *views* are what a finite group makes of it. A learner with a `group` learns on single views, and answers on
the weighted mean of several views' features, chosen so that the same pictures are looked at whichever of them it is
given: f(g·x) = f(x). The views lie in an order that only their content decides, so that even the rounding is the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from continual.errors import InputError
from continual.seeding import generator
from equivariant.actions import Images
from equivariant.errors import EquivariantError
from equivariant.groups import FiniteGroup, as_group
from equivariant.orbits import orbit
from equivariant.ties import best, default_tolerance, top

if TYPE_CHECKING:
    from continual.backbones.base import Frozen

#: These look at all views; how a view counts is read from its features.
_READ = ("lambda_equitune", "equizero")
#: These choose views before the whole network runs; what they read is fitted to the first experience's images.
_CHOSEN = ("canonicaliser", "pruned_orbit")
#: After how many blocks or stages `pruned_orbit` chooses: each costs |G| of its passes, and helps to recognise upright.
EARLY = 3
#: How strongly a fitted score's weights are held back: the best of 1, 10 and 100 on classes chosen for that.
PENALTY = 100.0


@dataclass(frozen=True)
class Symmetry:
    """A group, and what is made of an image's views; `fitted` are the tensors that `fit` found."""

    group: FiniteGroup
    kind: str
    keep: int  #: of `frame` and `pruned_orbit`: how many views are looked at
    fitted: Mapping[str, Tensor]

    @staticmethod
    def of(settings: Any, fitted: Mapping[str, Tensor]) -> Symmetry | None:
        """Return the symmetry that settings ask for, if they do."""
        if settings.group is None:
            return None
        return Symmetry(group_named(settings.group), settings.symmetry, settings.views, fitted)

    @property
    def averages_scores(self) -> bool:
        """Whether not features but a learner's scores are averaged."""
        return self.kind == "score_averaging"

    @property
    def looked(self) -> int:
        """How many views of an image are looked at, but for ties."""
        if self.kind in ("frame", "pruned_orbit"):
            return min(self.keep, self.group.order)
        return self.group.order if self.kind == "equitune" or self.reads_features else 1

    @property
    def reads_features(self) -> bool:
        """Whether how a view counts is read from the features that are to be averaged."""
        return self.kind in _READ

    # Looking -------------------------------------------------------------------------------------------

    def look(self, trunk: Frozen, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the views (B·m, 3, H, W) of images (B, 3, H, W) that are looked at, an image's one after the other.

        With them, how they count (B, m), if that is not said by their features. Views of no weight may be among them.
        Raises InputError if the group cannot act on such images.
        """
        if self.kind in ("augmentation", "score_averaging"):
            return images, None
        views, weights = self.orbit(images), None
        if self.kind == "frame":
            views = views[:, : self.keep]
        elif self.kind in _CHOSEN:
            weights = self._chosen(self._score(self.describe(trunk, views)))
            # The steps of a graph that is exported cannot depend on images: there, all views are looked at.
            most = weights.shape[1] if torch.compiler.is_exporting() else int((weights > 0).sum(1).max())
            best_first = descending(weights)[:, :most]
            weights = weights.gather(1, best_first)
            views = views[torch.arange(images.shape[0], device=images.device)[:, None], best_first]
        return views.flatten(0, 1), weights

    def views(self, images: Tensor) -> Tensor:
        """Return all views (B, |G|, 3, H, W) of images, the images as they are first."""
        group = self.group
        elements = sorted(range(group.order), key=lambda g: g != group.identity)
        with refusals():
            return orbit(group, images, elements=elements).transpose(0, 1)

    def orbit(self, images: Tensor) -> Tensor:
        """Return all views (B, |G|, 3, H, W) of images, in an order that does not depend on which of them was given."""
        views = self.views(images)
        places = content_order(views)
        return views[torch.arange(images.shape[0], device=images.device)[:, None], places]

    def mean(self, found: Tensor, views: int, weights: Tensor | None) -> Tensor:
        """Return the weighted mean (B, D) of features (B·m, D) of m `views` each, with the weights that `look` gave."""
        each = found.unflatten(0, (-1, views))
        if weights is None and self.reads_features:
            weights = self._read(each)
        if weights is None:
            return each.mean(1)
        return (weights.to(each.dtype)[..., None] * each).sum(1)

    # What is fitted ------------------------------------------------------------------------------------

    @property
    def learns(self) -> bool:
        """Whether something is to be fitted before this symmetry can be used."""
        return self.kind in (*_READ, *_CHOSEN)

    def describe(self, trunk: Frozen, views: Tensor) -> Tensor:
        """Return what scores read of views (B, m, 3, H, W): numbers (B, m, K)."""
        flat = views.flatten(0, 1)
        if self.kind == "canonicaliser":
            found = F.adaptive_avg_pool2d(flat, 8).flatten(1)
        elif self.kind == "pruned_orbit":
            found = trunk.block_tokens(flat, 1, until=min(EARLY, trunk.depth))
        else:
            found = trunk.features(flat)
        return found.unflatten(0, views.shape[:2])

    def fit(self, described: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Fit to views as described, (n, |G|, K) with the image as given first, and class indices (n,).

        `equizero` takes the class means as references. The others take the linear score under whose softmax over
        an orbit the views as given are likeliest: of images that have an upright, what they look like upright.
        """
        if self.kind == "equizero":
            given = described[:, 0].double()
            return {"references": torch.stack([given[targets == c].mean(0) for c in targets.unique()]).float()}
        x = described.double()
        centre, deviation = x.mean((0, 1)), x.std((0, 1), correction=0).clamp(min=1e-6)
        x = (x - centre) / deviation
        weight = _upright(x)
        return {"centre": centre.float(), "deviation": deviation.float(), "weight": weight.float()}

    def _score(self, described: Tensor) -> Tensor:
        """Return how upright views as described (B, m, K) look, (B, m)."""
        own = self.fitted
        return ((described.float() - own["centre"]) / own["deviation"] * own["weight"]).sum(-1)

    def _chosen(self, scores: Tensor) -> Tensor:
        """Return weights (B, m) of which only those of the best views are not 0; views that tie are both kept."""
        tolerance = default_tolerance(scores.dtype)
        if self.kind == "canonicaliser":
            return best(scores.mT, tolerance).mT
        kept = top(scores.mT, min(self.keep, scores.shape[1]), tolerance).mT
        return scores.masked_fill(~kept, -torch.inf).softmax(1)

    def _read(self, each: Tensor) -> Tensor:
        """Return the weights (B, m) that features (B, m, D) say."""
        if self.kind == "lambda_equitune":
            return self._score(each).softmax(1)
        cosines = F.normalize(each.float(), dim=-1) @ F.normalize(self.fitted["references"], dim=-1).mT
        return best(cosines.amax(-1).mT, default_tolerance(torch.float32)).mT


def _upright(x: Tensor) -> Tensor:
    """Return w (K,) that minimises the mean of -log softmax(x w)[0] + PENALTY / 2n |w|^2, for views (n, m, K)."""
    weight = torch.zeros(x.shape[-1], dtype=x.dtype, device=x.device, requires_grad=True)
    first = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    optimizer = torch.optim.LBFGS([weight], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(x @ weight, first) + PENALTY / (2 * len(x)) * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return weight.detach()


# The order of views --------------------------------------------------------------------------------------


def content_order(views: Tensor) -> Tensor:
    """Return places (B, m) of views (B, m, C, H, W), the one that is brightest at the top, then at the left, first.

    Whole numbers decide, which are the same in whatever order they are added; where they tie, a sum that takes every
    pixel into account. Views that tie then as well are the same picture.
    """
    levels = (views.double() * 2**12).round().long()
    light = levels.sum(2)
    down, right = (torch.arange(side - 1, -side, -2, device=views.device) for side in light.shape[-2:])
    tilt = 2 * (light.sum(-1) * down).sum(-1) + (light.sum(-2) * right).sum(-1)
    return descending(tilt, -(levels * _noise(*levels.shape[2:]).to(views.device)).sum((2, 3, 4)))


def descending(*keys: Tensor) -> Tensor:
    """Return the places (B, m) of the largest of the first key (B, m), the second largest, ...; stable.

    Where a key ties, the next decides, and at last the place. Each is compared with each (m is a group's order), as
    exporters know no sorting by several keys.
    """
    places = torch.arange(keys[0].shape[1], device=keys[0].device)
    before = places[:, None] < places
    for key in reversed(keys):
        one, other = key[:, :, None], key[:, None]
        before = (one > other) | ((one == other) & before)
    return (before.sum(1)[:, None] == places[:, None]).int().argmax(2)


@lru_cache(maxsize=8)
def _noise(*shape: int) -> Tensor:
    return torch.randint(2**24, shape, generator=generator(0, "order of views"))


def moved(group: FiniteGroup, element: int, image: Tensor) -> Tensor:
    """Return an image (3, H, W) moved by an element; raises InputError if the group cannot act on it."""
    with refusals():
        return Images()(group, element, image[None])[0]


@cache
def group_named(name: str) -> FiniteGroup:
    """Return the group of that name; raises InputError for one that is unknown or does not act on pictures."""
    with refusals():
        group = as_group(name)
        orbit(group, torch.zeros(1, 3, 2, 2))
    return group


@contextmanager
def refusals() -> Iterator[None]:
    """Say what `equivariant` refuses as this package's own error."""
    try:
        yield
    except EquivariantError as error:
        raise InputError(str(error)) from error
