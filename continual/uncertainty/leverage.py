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
        return (t / self.temperature).softmax(-1), p_value(self.ood_scores.to(values), -t.amax(-1))

    def without(self, index: int) -> Certainty:
        """Return the same: the columns of `errors` are no classes, and what is usual of the others stays."""
        return self

    def mean_leverage(self, sums: GramStatistics) -> Tensor:
        """Return the mean leverage () of the images in the sums."""
        count, weight, bias = sums.counts.sum(), self.errors.weight.to(sums.total), self.errors.bias.to(sums.total)
        squares = (weight * (sums.gram() @ weight)).sum() + 2 * (sums.total @ weight) @ bias
        return squares / count + bias.square().sum() + self.share

    def updated(self, t: Tensor, labels: Tensor) -> Certainty:
        """Return this updated by images left out, of own classes `labels` (n,), whose t are (n, C).

        Earlier ones count for a quarter once there are twice as many classes: their unit holds only nearly.
        """
        t, classes = t / self.typical, t.shape[1]
        fade = (self.classes / classes).clamp(max=1).square()
        old = fade * self.images
        # Without a share for all classes alike, a few images that are all right would ask for T = 0.
        smooth = 1 / (1 + len(t))
        losses = [
            F.cross_entropy(t / T, labels, label_smoothing=smooth, reduction="sum") for T in TEMPERATURES.tolist()
        ]
        weights = torch.cat([old.expand(LEVELS) / LEVELS, t.new_ones(len(t))])
        return replace(
            self,
            losses=fade * self.losses + torch.stack(losses),
            ood_scores=quantiles(torch.cat([self.ood_scores, -t.amax(-1)]), weights),
            images=old + len(t),
            classes=torch.full_like(self.classes, classes),
        )


def certainty(
    sums: GramStatistics,
    system: Standardised,
    readout: LinearHead,
    newest: tuple[Tensor, Tensor] | None,
    before: Certainty | None,
    generator: torch.Generator,
) -> Certainty:
    """Return how sure a map may be that was solved from the sums by their system.

    `newest` are features (n, D') that the sums hold, with class indices (n,); None leaves what is usual as it was
    `before`. An image that is its class's only one says nothing. `generator` (of the CPU) draws the sketch.
    """
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
    if newest is None or classes < 2 or not (several := sums.counts[newest[1]] > 1).any():
        return found
    features, labels = newest[0][several].to(rows), newest[1][several]
    x = ((features - system.mean) / system.deviation).mT
    leverages = torch.linalg.solve_triangular(system.lower, x, upper=False).square().sum(0) + 1 / count
    t = _left_out(readout(features), leverages[:, None], F.one_hot(labels, classes))
    return found.updated(t, labels)


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
