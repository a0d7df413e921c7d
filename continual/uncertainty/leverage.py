"""How sure a ridge regression may be of its values: calibrated probabilities, and what is unlike all images seen.

The value f_c of an image x has a standard error proportional to the root of its leverage, h = 1/n + x^T A^-1 x with x
standardised and A the Gram matrix with the penalty on its diagonal. t_c = f_c / sqrt(h) is the value in standard
errors: softmax(t / T) are probabilities, and an image whose largest t is small is unlike every class.

Images that were learned are predicted better than others. So T and what is usual are leave-one-out estimates in closed
form, while their features are still in memory: values become (f - h y) / (1 - h), leverages h / (1 - h) (Allen,
Technometrics 1974). Of earlier experiences a curve over T and quantiles are kept, in units of a typical own t, which
follows from the sums at any time (with the mean leverage for each image's: Golub, Heath and Wahba, Technometrics 1979),
so that what was kept stays true while more classes come.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from continual.statistics.ridge import GramStatistics, LinearHead, Standardised
from continual.uncertainty.gaussians import LEVELS, p_value, quantiles
from continual.uncertainty.tempering import agreeing

SKETCH = 256  #: numbers from which a leverage is estimated, to 9 %, where there are more features
#: what T is chosen from, in units of a typical own t
TEMPERATURES = 10 ** torch.linspace(-2, 2, 161, dtype=torch.float64)

#: of a class's index, a number of draws, and a generator: values (count, C) under each map
Drawing = Callable[[int, int, torch.Generator], list[Tensor]]


@dataclass(frozen=True)
class Certainty:
    """What is usual of a regression's values. All are tensors."""

    errors: LinearHead  #: features (B, D') to (B, k), the squares of which sum to the leverage less 1/n
    share: Tensor  #: (), 1/n
    typical: Tensor  #: (), the own t of an image left out
    losses: Tensor  #: cross-entropy at each of TEMPERATURES, a sum over images left out
    ood_scores: Tensor  #: (LEVELS,), quantiles of -max t of the same, ascending
    images: Tensor  #: (), how many those count for; 0 where nothing is known
    classes: Tensor  #: (), how many were known then

    @cached_property
    def temperature(self) -> float | None:
        """The likeliest T, in units of a typical own t; None where nothing is known."""
        return float(TEMPERATURES[int(self.losses.argmin())]) if self.images else None

    def judge(self, values: Tensor, features: Tensor) -> tuple[Tensor | None, Tensor | None]:
        """Return the probabilities (B, C) and the p-value (B,) of values (B, C) and their features (B, D').

        See `continual.learning.state.Prediction`. None for fewer than two classes, and where nothing is known.
        """
        if self.temperature is None or values.shape[1] < 2:
            return None, None
        leverage = self.errors(features).square().sum(-1) + self.share.to(values)
        t = values / (leverage.sqrt() * self.typical.to(values))[:, None]
        probabilities = agreeing((t / self.temperature).softmax(-1), values)
        return probabilities, p_value(self.ood_scores.to(values), -t.amax(-1))

    def without(self, index: int) -> Certainty:
        """Return the same: the columns of `errors` are no classes, and what is usual of the others stays."""
        return self

    def plus(self, other: Certainty) -> Certainty:
        """Return the same, with what the images of another model said is usual as well."""
        weights = torch.cat([one.images.expand(LEVELS) / LEVELS for one in (self, other)])
        known = bool(weights.sum() > 0)
        both = torch.cat([self.ood_scores, other.ood_scores])
        return replace(
            self,
            losses=self.losses + other.losses,
            ood_scores=quantiles(both, weights) if known else self.ood_scores,
            images=self.images + other.images,
            classes=torch.maximum(self.classes, other.classes),
        )

    def counting(self, share: Tensor) -> Certainty:
        """Return the same, as if only a share () of the images had said what is usual."""
        return replace(self, losses=self.losses * share, images=self.images * share)

    def mean_leverage(self, sums: GramStatistics) -> Tensor:
        """Return the mean leverage () of the images in the sums."""
        count, weight, bias = sums.counts.sum(), self.errors.weight.to(sums.total), self.errors.bias.to(sums.total)
        squares = (weight * (sums.gram() @ weight)).sum() + 2 * (sums.total @ weight) @ bias
        return squares / count + bias.square().sum() + self.share

    def updated(self, t: Tensor, labels: Tensor, weights: Tensor | None = None) -> Certainty:
        """Return this updated by images left out, of own classes `labels` (n,), whose t are (n, C).

        Earlier ones count for a quarter once there are twice as many classes: their unit holds only nearly. `weights`
        (n,) is what each image counts for; 1 without.
        """
        t, classes = t / self.typical, t.shape[1]
        fade = (self.classes / classes).clamp(max=1).square()
        old = fade * self.images
        # Without a share for all classes alike, a few images that are all right would ask for T = 0.
        smooth = 1 / (1 + len(t))
        losses = [
            F.cross_entropy(t / T, labels, label_smoothing=smooth, reduction="sum")
            if weights is None
            else F.cross_entropy(t / T, labels, label_smoothing=smooth, reduction="none") @ weights
            for T in TEMPERATURES.tolist()
        ]
        own = t.new_ones(len(t)) if weights is None else weights
        return replace(
            self,
            losses=fade * self.losses + torch.stack(losses),
            ood_scores=quantiles(
                torch.cat([self.ood_scores, -t.amax(-1)]), torch.cat([old.expand(LEVELS) / LEVELS, own])
            ),
            images=old + own.sum(),
            classes=torch.full_like(self.classes, classes),
        )


def certainty(
    sums: GramStatistics,
    system: Standardised,
    readout: LinearHead,
    newest: tuple[Tensor, Tensor] | None,
    before: Certainty | None,
    generator: torch.Generator,
    balance: float = 0.0,
) -> Certainty:
    """Return how sure a map may be that was solved by the system of the sums, `GramStatistics.balanced` or as they are.

    `newest` are features (n, D') that the sums hold, with class indices (n,); None leaves what is usual as it was
    `before`. An image that is its class's only one says nothing. `generator` (of the CPU) draws the sketch. What is
    usual is so of images that come from the classes as often as these weigh.
    """
    seen, sums = sums, sums.balanced(balance)
    count, width, classes = sums.counts.sum(), len(system.mean), len(sums.counts)
    rows = torch.eye(width, dtype=sums.total.dtype, device=sums.total.device)
    if width > SKETCH:
        rows = (torch.randn(SKETCH, width, generator=generator) / SKETCH**0.5).to(rows)
    drawn = torch.linalg.solve_triangular(system.lower, rows, upper=False, left=False)
    weight = (drawn / system.deviation).mT
    # The leverages of all images sum to 1 + tr(I - penalty A^-1).
    leverage = ((1 + rows.square().sum() - system.penalty * drawn.square().sum()) / count).clamp(1e-6, 1 - 1e-6)
    own = ((readout.weight * sums.targets).sum() + readout.bias @ sums.counts) / count
    # Left out, a typical image keeps at least half of what guessing would give its class.
    own = torch.maximum(own, leverage + (1 - leverage) / (2 * classes))
    zero = own.new_zeros(())
    usual = (zero.expand(len(TEMPERATURES)), zero.expand(LEVELS), zero, zero)
    if before is not None:
        usual = (before.losses, before.ood_scores, before.images, before.classes)
    found = Certainty(
        LinearHead(weight.float().contiguous(), -(system.mean @ weight).float()),
        1 / count,
        _left_out(own, leverage, 1.0),
        *(tensor.contiguous() for tensor in usual),
    )
    if newest is None or classes < 2 or not (several := seen.counts[newest[1]] > 1).any():
        return found
    features, labels = newest[0][several].to(rows), newest[1][several]
    if sums is not seen:
        t = _left_out_weighted(seen, sums, system, readout, features, labels)
        return found.updated(t, labels, seen.image_weights(balance)[labels])
    x = ((features - system.mean) / system.deviation).mT
    leverages = torch.linalg.solve_triangular(system.lower, x, upper=False).square().sum(0) + 1 / count
    t = _left_out(readout(features), leverages[:, None], F.one_hot(labels, classes))
    return found.updated(t, labels)


def _left_out_weighted(
    seen: GramStatistics,
    sums: GramStatistics,
    system: Standardised,
    readout: LinearHead,
    features: Tensor,
    labels: Tensor,
) -> Tensor:
    """Return t (n, C) for learned images (n, D') as if they had not been, where classes weigh as in `sums`.

    Weights stay as they are: without an image d from the mean of its n, the class's mean lies d / (n - 1) further off,
    and the scatter within classes loses n / (n - 1) d d^T. So A changes by U K U^T with U = [d, k], k the class's
    mean, all centred, and the centred image is in the span of U as well: Woodbury's identity in two dimensions.
    """
    count, share = sums.counts.sum(), (sums.counts / sums.counts.sum())[labels]
    means = (seen.targets / seen.counts).mT
    ours, theirs = readout(features), readout(means)[labels]  # (n, C)
    white = [
        torch.linalg.solve_triangular(system.lower, ((rows - system.mean) / system.deviation).mT, upper=False).mT
        for rows in (features, means)
    ]
    k = white[1][labels]
    u = torch.stack([white[0] - k, k], 1)  # (n, 2, D'): d and k where A is the identity
    values = torch.stack([ours - theirs, theirs - sums.counts / count], 1)  # (n, 2, C): what the weights make of them
    step = 1 / (seen.counts[labels] - 1)
    pull = sums.counts[labels] * step
    products, change = u @ u.mT, u.new_zeros(len(u), 2, 2)
    change[:, 0, 0] = 1 + step - pull * step * (1 - share)
    change[:, 0, 1] = change[:, 1, 0] = pull
    place = torch.stack([1 + share * step, torch.ones_like(step)], 1)[:, None]  # the image, less the mean without it
    without = torch.linalg.solve(torch.eye(2).to(u) - products @ change, torch.cat([products, values], 2))
    moved = pull[:, None] * (F.one_hot(labels, len(means)) - sums.counts / count)
    # What is left of the targets: d is gone from the class's, and from the mean of all.
    f = sums.counts / count + (place @ (without[:, :, 2:] - without[:, :, :1] * moved[:, None]))[:, 0]
    h = 1 / count + (place @ without[:, :, :2] @ place.mT)[:, 0]
    return f / h.clamp(min=1e-12).sqrt()


def _left_out(values: Tensor, leverage: Tensor, targets: Tensor | float) -> Tensor:
    """Return t for images that were learned, as if they had not been: (f - h y) / (1 - h) over sqrt(h / (1 - h))."""
    return (values - leverage * targets) / (leverage * (1 - leverage)).clamp(min=1e-12).sqrt()


def drawing(sums: GramStatistics, maps: Sequence[tuple[LinearHead, Tensor]]) -> Drawing:
    """Return a sampler of values of simulated images of a class, the same images under several maps.

    A map comes with the mean leverage h of the images in the sums; the first classes of each are those of the sums. The
    residual of an image not learned is that of a learned one over 1 - h (Allen, Technometrics 1974). Residuals of
    learned ones are taken for Gaussian: around that of the class's mean, with the covariance W^T S W of all maps W
    together, where S is the one of images within their classes.
    """
    weight, bias = torch.cat([one.weight for one, _ in maps], 1), torch.cat([one.bias for one, _ in maps])
    means = (sums.targets / sums.counts).mT @ weight  # (C, V), V values of all maps side by side
    within = weight.mT @ (sums.gram() @ weight) - (means * sums.counts[:, None]).mT @ means
    spread, directions = torch.linalg.eigh((within / sums.counts.sum()).cpu())
    root = directions * spread.clamp(min=0).sqrt()
    means, widths = (means + bias).cpu(), [len(one.bias) for one, _ in maps]
    kept = torch.cat([(1 - h).clamp(min=1e-6).expand(n).cpu() for (_, h), n in zip(maps, widths, strict=True)])

    def draw(index: int, count: int, generator: torch.Generator) -> list[Tensor]:
        own = torch.cat([torch.eye(n, dtype=root.dtype)[index] for n in widths])
        noise = torch.randn(count, len(own), generator=generator, device=generator.device).to(root)
        values = own + (means[index] - own + noise @ root.mT) / kept
        return list(values.split(widths, dim=1))

    return draw
