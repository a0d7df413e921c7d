"""Probabilities from the scores that decide: the higher a score, the likelier its class, by one fitted temperature.

The temperature T of p ~ s^(1 / T) needs scores of images that were not learned, of known classes. Where nothing but
class statistics is left, features are drawn from these, d from their class's mean, and taken w d from it: new images
lie further off than learned ones, as features were trained on those. How far, w, is where the drawn features are
answered right as often as the learned images were when each was left out in closed form (`Calibration.accuracy`).
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from continual.statistics.class_statistics import ClassStatistics
from continual.uncertainty.gaussians import fit_temperature

DRAWS = 4096  #: of all classes together
WIDEST = 8.0  #: w, at most
CLOSE = 1e-6  #: by how much the answer's probability is greater than any other, at least, as a share of it

#: features (n, D), each drawn from its class, and class indices (n,), to scores (n, C)
Decide = Callable[[Tensor, Tensor], Tensor]


def tempered(scores: Tensor, temperature: float) -> Tensor:
    """Return probabilities (B, C), in proportion to scores^(1 / T), of non-negative scores (B, C)."""
    return agreeing((_logs(scores) / temperature).softmax(-1), scores)


def agreeing(probabilities: Tensor, scores: Tensor) -> Tensor:
    """Return probabilities (B, C) of which the answer's, that of the largest score (B, C), is the largest.

    It is anyway, except for rounding, which may bring another as high.
    """
    places = torch.arange(scores.shape[-1], device=scores.device)
    best = probabilities.amax(-1, keepdim=True)
    others = torch.minimum(probabilities, best * (1 - CLOSE))
    return torch.where(places == scores.argmax(-1, keepdim=True), best, others)


def score_temperature(
    statistics: Sequence[ClassStatistics], accuracy: float, decide: Decide, floor: float, generator: torch.Generator
) -> float:
    """Return T for scores that `decide` gives, of which a share `accuracy` should be right for new images.

    `floor` is added to the diagonal of every covariance; `generator`, of the statistics' device, draws the features,
    and where there are more classes than draws, which of them are drawn from.
    """
    centres, count = torch.stack([s.mean for s in statistics]), max(1, DRAWS // len(statistics))
    own = torch.arange(len(statistics), device=centres.device)
    if len(own) > DRAWS:
        rows = max(1, DRAWS**2 // len(own))
        own = torch.randperm(len(own), generator=generator, device=centres.device)[:rows].sort().values
    asked = [statistics[c] for c in own.tolist()]
    drawn = torch.cat([s.sampler(floor).draw(count, generator) - s.mean for s in asked])
    own = own.repeat_interleave(count)

    def scores(width: float) -> Tensor:
        return decide(centres[own] + width * drawn, own)

    low, high = 1.0, WIDEST
    for _ in range(10):
        middle = (low * high) ** 0.5
        right = float((scores(middle).argmax(-1) == own).float().mean())
        low, high = (middle, high) if right > accuracy else (low, middle)
    return fit_temperature(-_logs(scores(low)), own)


def _logs(scores: Tensor) -> Tensor:
    """Return the logarithms of scores (B, C), in units of each row's largest."""
    return (scores / scores.amax(-1, keepdim=True)).clamp(min=1e-12).log()
