"""What is decided about learned images as if each had not been, in closed form, while their features are at hand.

An image may be several rows, its views: all of them are left out together, or an image would vouch for itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from continual.statistics.head import Prototypes, cosine_scores
from continual.statistics.ridge import GramStatistics, LinearHead, Standardised

#: images of more features than this are left out in parts, of so many numbers
WIDE, PART = 4096, 2**22


class ViewOrder(NamedTuple):
    """In which order the views of images come, where an answer may be a mean over fewer than those looked at."""

    places: Tensor  #: (n,), a row's place in the order of its image's views
    views: int  #: how many views of an image were learned
    looked: int  #: over how many of them an answer is a mean, at most


class Rows(NamedTuple):
    """Images whose features are in the sums, one or several rows an image, and how they will be asked about."""

    features: Tensor  #: (n, D')
    labels: Tensor  #: (n,), class indices
    copies: int = 1  #: v, rows of an image, one after the other: its views
    weight: float = 1.0  #: what a row counts for in the sums
    readings: Tensor | None = None  #: (R, v), shares of the views in what is asked about; None: their mean
    stands_for: float = 1.0  #: how many images each of these stands for, where they are a sample
    weights: Tensor | None = None  #: (W, n), by how much a row's share is multiplied, in W ways; None: by 1
    order: ViewOrder | None = None  #: None where an answer is never a mean over fewer

    def counts(self, sums: GramStatistics) -> Tensor:
        """Return of how many images each class (C,) is in the sums, where all of them have as many rows."""
        return sums.counts / (self.copies * self.weight)

    def several(self, sums: GramStatistics) -> Rows:
        """Return the images that are not their class's only one."""
        return self.taken(self.counts(sums)[self.labels] > 1)

    def taken(self, kept: slice | Tensor) -> Rows:
        """Return the images of these rows, all of an image's."""
        order = None if self.order is None else self.order._replace(places=self.order.places[kept])
        weights = None if self.weights is None else self.weights[:, kept]
        return self._replace(features=self.features[kept], labels=self.labels[kept], weights=weights, order=order)

    def parts(self, images: int) -> Iterator[Rows]:
        """Yield the images, so many at once."""
        step = self.copies * images
        return (self.taken(slice(start, start + step)) for start in range(0, len(self.labels), step))

    def shares(self) -> Tensor:
        """Return how much an image's rows count in what is asked about, (R W, n / v, v), or (R, 1, v) if all alike."""
        own = self.features.new_full((1, self.copies), 1 / self.copies) if self.readings is None else self.readings
        shares = own.to(self.features)[:, None]
        if self.weights is None:
            return shares
        return (shares[:, None] * self.weights.unflatten(1, (-1, self.copies))).flatten(0, 1)

    def by_first_views(self) -> Rows:
        """Return the images with means over their first 1, 2, ... views in their order as what is asked about."""
        assert self.order is not None
        places, views, looked = self.order
        counts = torch.arange(1, looked, device=places.device)[:, None]
        return self._replace(weights=(places < counts) * (views / counts))


def t_left_out_weighted(
    seen: GramStatistics, sums: GramStatistics, system: Standardised, readout: LinearHead, images: Rows
) -> tuple[Tensor, Tensor]:
    """Return t (R, n, C), and leverages (R, n), of n learned images as if they had not been, for each of `shares`.

    Classes weigh as in `sums`, and weights stay as they are. Without an image, of which d is the mean over its views'
    gaps d_j from its class's mean of N, that mean lies d / (N - 1) further off, and the scatter within classes loses
    sum_j w d_j d_j^T + w v / (N - 1) d d^T, w what a view counts for. So A changes by U K U^T with U = [d_1 .. d_v, k],
    k the class's mean, all centred, and what is asked about is in the span of U as well: Woodbury's identity in v + 1
    dimensions.
    """
    v, width = images.copies, len(system.mean)
    means = (seen.targets / seen.counts).mT
    known = readout(means), system.white(means)
    at_once = len(images.labels) if width <= WIDE else max(1, PART // (v * width))
    found = [_left_out(seen, sums, system, readout, part, *known) for part in images.parts(at_once)]
    t, leverages = zip(*found, strict=True)
    return (torch.cat(t, 1), torch.cat(leverages, 1)) if len(found) > 1 else found[0]


def _left_out(
    seen: GramStatistics,
    sums: GramStatistics,
    system: Standardised,
    readout: LinearHead,
    images: Rows,
    of_means: Tensor,
    white_means: Tensor,
) -> tuple[Tensor, Tensor]:
    """Return the same of a part of the images, of values (C, C) and whitened features (C, D') of the classes' means."""
    lower, dtype, v = system.lower, system.lower.dtype, images.copies
    features, labels = images.features.to(lower), images.labels[::v]
    count, share = sums.counts.sum(), (sums.counts / sums.counts.sum())[labels]
    ours, theirs = readout(features).unflatten(0, (-1, v)), of_means[labels]  # (n, v, C), (n, C)
    k = white_means[labels][:, None]
    # (n, v + 1, D'): the d_j and k where A is the identity
    u = torch.cat([system.white(features).unflatten(0, (-1, v)) - k, k], 1)
    values = torch.cat([ours - theirs[:, None], (theirs - sums.counts / count)[:, None]], 1)  # what the weights make
    step = 1 / (images.counts(seen)[labels] - 1)
    pull = sums.counts[labels] * step
    even = u.new_full((v,), 1 / v)
    inner = step * images.weight * v - pull * step * (1 - share)
    products, change = u @ u.mT, u.new_zeros(len(u), v + 1, v + 1)
    change[:, :v, :v] = images.weight * torch.eye(v, dtype=dtype).to(u) + inner[:, None, None] * torch.outer(even, even)
    change[:, v, :v] = change[:, :v, v] = pull[:, None] * even
    # What is asked about, less the mean without the image: its coordinates (R, n, 1, v + 1) in U.
    place = F.pad(images.shares().to(u) + (share * step)[:, None] * even, (0, 1), value=1.0)[:, :, None]
    without = torch.linalg.solve(
        torch.eye(v + 1, dtype=dtype).to(u) - products @ change, torch.cat([products, values], 2)
    )
    moved = pull[:, None] * (F.one_hot(labels, len(of_means)) - sums.counts / count)
    # What is left of the targets: d is gone from the class's, and from the mean of all.
    left = without[:, :, v + 1 :] - (without[:, :, :v] @ even)[:, :, None] * moved[:, None]
    f = sums.counts / count + (place @ left)[:, :, 0]
    h = (1 / count + (place @ without[:, :, : v + 1] @ place.mT)[:, :, 0, 0]).clamp(min=1e-12)
    return f / h.sqrt()[..., None], h


def t_left_out(values: Tensor, leverage: Tensor, targets: Tensor | float) -> Tensor:
    """Return t for images that were learned, as if they had not been: (f - h y) / (1 - h) over sqrt(h / (1 - h))."""
    return (values - leverage * targets) / (leverage * (1 - leverage)).clamp(min=1e-12).sqrt()


def values_left_out(rows: Rows, weights: Tensor, lower: Tensor, readout: LinearHead) -> tuple[Tensor, Tensor, Tensor]:
    """Return values (m, C) of learned images as if they had not been, class indices (m,), and what images weigh (m,).

    For a regression without centring, of A = L L^T (D, D), in which a row weighs as `weights` (n,) says. f_B becomes
    Y + (I - H)^-1 (f_B - Y) for the rows B of an image, H = W X_B A^-1 X_B^T; returned is the mean over them.
    """
    v, x = rows.copies, rows.features.to(lower)
    white = torch.linalg.solve_triangular(lower, x.mT, upper=False).mT.unflatten(0, (-1, v))
    weights, labels = weights[::v], rows.labels[::v]
    targets = F.one_hot(labels, len(readout.bias)).to(lower)[:, None]
    system = torch.eye(v, dtype=lower.dtype).to(lower) - weights[:, None, None] * (white @ white.mT)
    values = targets + torch.linalg.solve(system, readout(x).unflatten(0, (-1, v)) - targets)
    return values.mean(1), labels, weights


def cosines_left_out(
    features: Tensor, labels: Tensor, prototypes: Prototypes, copies: int = 1
) -> tuple[Tensor, Tensor]:
    """Return the cosines (..., m, C) of learned images with prototypes made without them, and class indices (m,).

    Features (..., n, D) of class indices (n,) are part of the prototypes (..., C, D). `copies` rows that follow each
    other are of one image, and left out together; asked about is their mean. The only image of its class is passed
    over, as nothing would be left of its prototype.
    """
    images, labels = features.unflatten(-2, (-1, copies)), labels[::copies]
    count = prototypes.count[..., labels]
    several = (count > copies).reshape(-1, len(labels)).all(0)
    images, labels, count = images[..., several, :, :], labels[several], count[..., several]
    asked = images.mean(-2)
    rest = prototypes.mean[..., labels, :] * count[..., None] - images.sum(-2)  # as long as it may be
    own = F.cosine_similarity(asked, rest, dim=-1)[..., None]
    cosines = cosine_scores(asked, prototypes.mean)
    places = torch.arange(cosines.shape[-1], device=cosines.device) == labels[:, None]
    return torch.where(places, own, cosines), labels
