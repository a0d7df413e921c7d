"""What every kind of symmetry has; see `continual.symmetry`. A kind says only in what it differs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

from torch import Tensor

from continual.symmetry import KINDS
from continual.symmetry.choice import AUTO, GroupChoice
from continual.symmetry.views import best_first, content_keys, content_order, descending, group_named, refusals, taken
from equivariant.groups import FiniteGroup
from equivariant.orbits import orbit

if TYPE_CHECKING:
    from continual.backbones.base import FrozenBackbone


@dataclass(frozen=True)
class Symmetry:
    """A group, and what is made of an image's views: by default all are looked at, and count alike.

    >>> class FirstView(Symmetry):
    ...     name, looked = "first_view", 1
    """

    name: ClassVar[str]  #: what the setting `symmetry` calls it
    invariant: ClassVar[bool] = True  #: whether all views of an image get the same answer
    averages_scores: ClassVar[bool] = False  #: whether a learner's scores are averaged, instead of features
    reads_features: ClassVar[bool] = False  #: whether `weigh` reads the features that are averaged
    chooses: ClassVar[bool] = False  #: whether `weigh` reads `describe`, before the whole network runs
    learns: ClassVar[bool] = False  #: whether something is to be fitted before this symmetry can be used
    looks_at_few: ClassVar[bool] = False  #: whether only as many views are looked at as the setting `views` says

    group: FiniteGroup
    keep: int = 1  #: the setting `views`
    fitted: Mapping[str, Tensor] = field(default_factory=dict)  #: the tensors that `fit` found

    @property
    def one_by_one(self) -> bool:
        """Whether the views that are looked at count alike, so that a mean over the first of them is one of fewer."""
        weighs = self.averages_scores or self.weighs
        return self.invariant and not weighs and type(self).look is Symmetry.look

    @property
    def weighs(self) -> bool:
        """Whether views count by what is read of them."""
        return self.reads_features or self.chooses

    @property
    def looked(self) -> int:
        """How many views of an image are looked at, ties aside."""
        return min(self.keep, self.group.order) if self.looks_at_few else self.group.order

    def look(self, frozen: FrozenBackbone, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the views (B·m, 3, H, W) of images (B, 3, H, W) that are looked at, an image's one after the other.

        With them, how they count (B, m), unless they count alike or their features say it. Views of no weight may be
        among them. Raises InputError if the group cannot act on such images.
        """
        views = self.orbit(images)
        if self.chooses:
            return best_first(views, self.weigh(self.describe(frozen, views)))
        return views[:, : self.looked].flatten(0, 1), None

    def views(self, images: Tensor) -> Tensor:
        """Return all views (B, |G|, 3, H, W) of images, the images as they are first."""
        group = self.group
        elements = sorted(range(group.order), key=lambda g: g != group.identity)
        with refusals():
            return orbit(group, images, elements=elements).transpose(0, 1)

    def orbit(self, images: Tensor) -> Tensor:
        """Return all views (B, |G|, 3, H, W) of images, in an order that does not depend on which of them was given."""
        views = self.views(images)
        return taken(views, content_order(views))

    def mean(self, found: Tensor, views: int, weights: Tensor | None) -> Tensor:
        """Return the weighted mean (B, D) of features (B·m, D) of m `views` each, with the weights that `look` gave."""
        each = found.unflatten(0, (-1, views))
        if weights is None and self.reads_features:
            weights = self.weigh(each)
        if weights is None:
            return each.mean(1)
        return (weights.to(each.dtype)[..., None] * each).sum(1)

    def describe(self, frozen: FrozenBackbone, views: Tensor) -> Tensor:
        """Return what is read of views (B, m, 3, H, W) to know how they count, (B, m, K): by default their features."""
        return frozen.features(views.flatten(0, 1)).unflatten(0, views.shape[:2])

    def weigh(self, described: Tensor) -> Tensor:
        """Return how much views count (B, m), of sum 1 over an image's, by what is read of them (B, m, K)."""
        raise NotImplementedError(f"{type(self).__name__} does not say how views count: define `weigh`")

    def noted(self, frozen: FrozenBackbone, views: Tensor) -> Tensor:
        """Return what is to be known of views (B, 3, H, W), each by itself, for `shares` (B, K)."""
        return self.describe(frozen, views[:, None])[:, 0] if self.weighs else content_keys(views)

    def shares(self, noted: Tensor) -> Tensor:
        """Return how much the views of images count in their features (n, |G|), of sum 1.

        By what was `noted` (n, |G|, K) of each, in the order of the group's elements. A kind with its own `look`
        has its own shares.
        """
        return self.weigh(noted) if self.weighs else (self.places(noted) < self.looked) / self.looked

    def places(self, noted: Tensor) -> Tensor:
        """Return the places (n, m) of views in the order in which they are looked at, by what was `noted` (n, m, 2)."""
        return descending(*noted.unbind(-1)).argsort(1)

    def fit(self, described: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return what is fitted to views as described, (n, |G|, K) with the image as given first, and classes (n,)."""
        return {}


def symmetry_of(settings: Any, fitted: Mapping[str, Tensor], choice: GroupChoice | None = None) -> Symmetry | None:
    """Return the symmetry of learner settings, None without a group; raises InputError for an unknown one of either.

    `choice` is what was taken if the group is "auto"; there is none before anything was learned.
    """
    group = settings.group
    if group == AUTO:
        group = None if choice is None else choice.group
    return None if group is None else KINDS.get(settings.symmetry)(group_named(group), settings.views, fitted)
