"""The p-value of an out-of-distribution (OOD) score among known images, and how often images not learned are right.

Classes are Gaussians of one covariance, pooled over them and shrunk halfway to a multiple of I. Of the distances to
them (Lee et al. 2018, arXiv 1807.03888, section 2) the smallest, less the distance to one Gaussian of all features (the
*relative* distance, Ren et al. 2021, arXiv 2106.09022), is the OOD score. Its p-value is the share of known images
expected to have one at least as high. The distances have probabilities too, by one temperature; those of an answer
follow from the scores that decide it (`continual.uncertainty.tempering`).

A class of few images lies closer to these than to any other image of it. So the temperature and the usual scores
are leave-one-out estimates in closed form, and every distance is divided by the variance of a new image around the mean
of n, 1 + 1/n times the class's own. The images themselves are gone: pseudo-samples are drawn that have exactly the
stored mean and covariance, for all classes whenever one was learned. Training fits the features to its images, too;
that is not corrected, and with three images per class or fewer the false-alarm rate may be twice the one asked for.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from continual.statistics.class_statistics import ClassStatistics, LowRank

SHRINKAGE = 0.5  #: rho in (1 - rho) S + rho tr(S) / D I
LEVELS = 1024  #: quantiles of OOD scores that are kept
PSEUDO_SAMPLES = 64  #: at most, of a class
#: of many classes only some have pseudo-samples: so many in all, times classes; of at least so many each; of at most so
#: many classes
DISTANCES, FEWEST, MOST_CLASSES = 2**23, 8, 256
#: more classes than this are many: their pseudo-samples are fewer, and what is a sum over classes is summed in groups
FEW_CLASSES = math.isqrt(DISTANCES // PSEUDO_SAMPLES)
#: classes of low rank whose scatter is one product
TOGETHER = 64


@dataclass(frozen=True)
class Gaussians:
    """Gaussians of one covariance A, in coordinates in which A is the identity."""

    centre: Tensor  #: (D,), taken off first, for the sake of rounding
    whitening: Tensor  #: (D, D), V with V^T V = A^-1
    means: Tensor  #: (C, D), whitened
    counts: Tensor  #: (C,), images of each
    weight: float  #: a; an image d from the mean of n is in A as a n / (n - 1) d d^T

    def distances(self, features: Tensor) -> Tensor:
        """Return d^T A^-1 d / (1 + 1/n) of features (B, D) to every mean, (B, C)."""
        return self._squares(self._whitened(features)) / (1 + 1 / self.counts)

    def left_out(self, features: Tensor, own: Tensor) -> Tensor:
        """Return leave-one-out `distances` of learned images (B, D) of classes `own` (B,).

        A^-1 changes by Sherman and Morrison's formula. Rows of a class's only image mean nothing.
        """
        white = self._whitened(features)
        d, n = white - self.means[own], self.counts[own]
        a = self.weight * n / (n - 1).clamp(min=1)
        gain = a / (1 - a * d.square().sum(-1)).clamp(min=1e-6)
        across = (d * white).sum(-1, keepdim=True) - d @ self.means.mT
        grown = (self._squares(white) + gain[:, None] * across.square()) / (1 + 1 / self.counts)
        # The mean of the other n - 1 lies n / (n - 1) d away, and varies by 1 / (n - 1) instead of 1 / n.
        grown[torch.arange(len(own)), own] *= (n + 1) / (n - 1).clamp(min=1)
        return grown

    def _whitened(self, features: Tensor) -> Tensor:
        return (features.float() - self.centre) @ self.whitening.mT

    def _squares(self, white: Tensor) -> Tensor:
        mode = "use_mm" if len(self.means) > FEW_CLASSES else "donot_use_mm"
        return torch.cdist(white, self.means, compute_mode=f"{mode}_for_euclid_dist").square()


@dataclass(frozen=True)
class Calibration:
    """What is usual among images of known classes."""

    temperature: float  #: T of the distances
    ood_scores: Tensor  #: (LEVELS,), their quantiles, ascending
    accuracy: float | None = None  #: the share nearest to their own class when left out; None in older files


@dataclass(frozen=True)
class OODDetector:
    """A detector of images of unknown classes."""

    classes: Gaussians
    whole: Gaussians  #: a single one, of all features
    calibration: Calibration

    def probabilities(self, features: Tensor) -> Tensor:
        """Return softmax(-distance / T) of features (B, D): (B, C)."""
        return (-self.classes.distances(features) / self.calibration.temperature).softmax(-1)

    def p_value(self, features: Tensor) -> Tensor:
        """Return the share of known images expected to be at least as unlike all as features (B, D): (B,), in (0, 1].

        Saying "unknown" at a p-value of at most p is a false alarm for a share p of known images.
        """
        scores = self.classes.distances(features).amin(-1) - self.whole.distances(features)[:, 0]
        return p_value(self.calibration.ood_scores, scores)


def p_value(usual: Tensor, scores: Tensor) -> Tensor:
    """Return the share of known images, of which quantiles (LEVELS,) are given, that are at least as scores (B,)."""
    return (1 + LEVELS - torch.searchsorted(usual, scores)) / (1 + LEVELS)


def detector_of(statistics: Sequence[ClassStatistics], calibration: Calibration | None) -> OODDetector | None:
    """Make the detector from class statistics and what `calibrate` returned for them; None where that was None."""
    if calibration is None or not _enough(statistics):
        return None
    return OODDetector(*_gaussians(statistics), calibration)


def calibrate(statistics: Sequence[ClassStatistics], generator: torch.Generator) -> Calibration | None:
    """Calibrate on pseudo-samples of every class; None for fewer than two classes, or no class with a second image.

    `generator` is of the CPU. Classes are weighted by their images; one with a single image has no pseudo-samples. Of
    more than 362 classes, a few hundred are drawn: the work would grow with the square of their number.
    """
    if not _enough(statistics):
        return None
    classes, whole = _gaussians(statistics)
    distances, scores, own, weights = [], [], [], []
    many = len(statistics) > FEW_CLASSES
    chosen, most = _asked([c for c, known in enumerate(statistics) if known.count > 1], len(statistics), generator)
    for c in chosen:
        known = statistics[c]
        features = _pseudo_samples(known, generator, most, many=many)
        own.append(torch.full((len(features),), c, device=features.device))
        distances.append(classes.left_out(features, own[-1]))
        scores.append(distances[-1].amin(-1) - whole.left_out(features, torch.zeros_like(own[-1]))[:, 0])
        weights.append(torch.full_like(scores[-1], known.count / len(features)))
    every, labels, weight = torch.cat(distances), torch.cat(own), torch.cat(weights)
    right = (every.argmin(-1) == labels).to(weight) @ weight / weight.sum()
    return Calibration(fit_temperature(every, labels), quantiles(torch.cat(scores), weight), float(right))


def _enough(statistics: Sequence[ClassStatistics]) -> bool:
    return len(statistics) > 1 and any(s.count > 1 for s in statistics)


def _asked(several: list[int], classes: int, generator: torch.Generator) -> tuple[list[int], int]:
    """Return which of the classes with several images have pseudo-samples, and at most how many each."""
    rows = DISTANCES // classes
    if classes <= FEW_CLASSES:
        return several, PSEUDO_SAMPLES
    most = max(1, min(len(several), MOST_CLASSES, rows // FEWEST))
    drawn = torch.randperm(len(several), generator=generator)[:most].sort().values.tolist()
    return [several[index] for index in drawn], max(1, min(PSEUDO_SAMPLES, rows // most))


def _pseudo_samples(
    statistics: ClassStatistics, generator: torch.Generator, most: int = PSEUDO_SAMPLES, *, many: bool = False
) -> Tensor:
    """Draw features (m, D), m <= `most`, of n that have exactly the mean and covariance of the statistics.

    Of many classes, those of low rank, of more images than directions, are drawn from as Gaussians: of so many images a
    few have another covariance anyway, and the eigenvalues of (D, D) for each class would be most of the work.
    """
    n, width = statistics.count, len(statistics.mean)
    rank = min(n - 1, width)
    if many and isinstance(statistics, LowRank):
        own, rest = statistics.factor.cpu().double(), statistics.rest.cpu().double()
        if rank > own.shape[1]:
            drawn = torch.randn(most, own.shape[1] + width, generator=generator, dtype=torch.float64)
            spread = drawn[:, : own.shape[1]] @ own.mT + drawn[:, own.shape[1] :] * rest.sqrt()
            return (statistics.mean.cpu() + spread).to(statistics.mean)
        directions, values, _ = torch.linalg.svd(own, full_matrices=False)
        factor = directions[:, :rank] * values[:rank]
    else:
        values, directions = torch.linalg.eigh(statistics.covariance_matrix().cpu().double())
        factor = directions[:, -rank:] * values[-rank:].clamp(min=0).sqrt()
    rows = torch.randn(min(n, 4 * width), rank, generator=generator, dtype=torch.float64)
    if n <= len(rows):  # for more, the difference does not matter
        # Orthonormal columns that sum to zero are n images' coordinates with mean 0 and covariance I / (n - 1).
        rows = torch.linalg.qr(rows - rows.mean(0)).Q * (n - 1) ** 0.5
    return (statistics.mean.cpu() + rows[:most] @ factor.mT).to(statistics.mean)


def joint_quantiles(*parts: tuple[Tensor, Tensor]) -> Tensor:
    """Return quantiles (..., LEVELS) of scores (..., n), which come with what they weigh: each (n,), or together ()."""
    sizes = [scores.shape[-1] for scores, _ in parts]
    weights = [own if own.ndim else own.expand(n) / max(n, 1) for (_, own), n in zip(parts, sizes, strict=True)]
    ways = torch.broadcast_shapes(*(scores.shape[:-1] for scores, _ in parts))
    scores = torch.cat([own.expand(*ways, -1) for own, _ in parts], -1)
    rows = [quantiles(row, torch.cat(weights)) for row in scores.reshape(-1, scores.shape[-1])]
    return torch.stack(rows).reshape(*scores.shape[:-1], LEVELS)


def quantiles(values: Tensor, weights: Tensor) -> Tensor:
    """Return LEVELS quantiles of weighted values."""
    values, order = values.sort()
    upto = weights[order].cumsum(0)
    wanted = (torch.arange(LEVELS, device=values.device) + 0.5) / LEVELS * upto[-1]
    return values[torch.searchsorted(upto, wanted).clamp(max=len(values) - 1)]


def fit_temperature(distances: Tensor, own: Tensor) -> float:
    """Return the likeliest T of softmax(-distances / T), of rows (n, C) with classes `own` (n,).

    Labels are smoothed by 1 / (n + 1), so that a few rows that are all right do not make T zero.
    """

    def loss(log_t: float) -> float:
        return float(F.cross_entropy(-distances / math.exp(log_t), own, label_smoothing=1 / (len(own) + 1)))

    low, high = math.log(1e-2), math.log(1e4)
    for _ in range(60):  # the likelihood is concave in 1 / T, so it has one maximum
        a, b = low + (high - low) / 3, high - (high - low) / 3
        low, high = (low, b) if loss(a) < loss(b) else (a, high)
    return math.exp((low + high) / 2)


def _gaussians(statistics: Sequence[ClassStatistics]) -> tuple[Gaussians, Gaussians]:
    """Return the classes' Gaussians, and the one of all features."""
    means = torch.stack([s.mean for s in statistics]).cpu().double()
    counts = torch.tensor([s.count for s in statistics])
    total, within = int(counts.sum()), _within(statistics)
    mean = (counts[:, None] * means).sum(0) / total
    gaps = means - mean
    scatter = within + gaps.mT @ (counts[:, None] * gaps)
    device = statistics[0].mean.device
    return (
        _whitened(means, counts, within, total - len(counts), device),
        _whitened(mean[None], torch.tensor([total]), scatter, total - 1, device),
    )


def _within(statistics: Sequence[ClassStatistics]) -> Tensor:
    """Return the sum of all classes' scatter around their means (D, D)."""
    width = len(statistics[0].mean)
    found = torch.zeros(width, width, dtype=torch.float64)
    low_rank = [s for s in statistics if isinstance(s, LowRank)] if len(statistics) > FEW_CLASSES else []
    for start in range(0, len(low_rank), TOGETHER):
        own = low_rank[start : start + TOGETHER]
        rows = torch.cat([s.factor.mT * (s.count - 1) ** 0.5 for s in own]).cpu().double()
        found += rows.mT @ rows
        found.diagonal().add_(torch.stack([(s.count - 1) * s.rest for s in own]).sum(0).cpu().double())
    for s in statistics:
        if not (low_rank and isinstance(s, LowRank)):
            found += (s.count - 1) * s.covariance_matrix().cpu().double()
    return found


def _whitened(means: Tensor, counts: Tensor, scatter: Tensor, freedom: int, device: torch.device) -> Gaussians:
    covariance = (1 - SHRINKAGE) * scatter / freedom
    covariance.diagonal().add_(SHRINKAGE * max(float(scatter.trace()) / freedom / len(scatter), 1e-6))
    factor = torch.linalg.cholesky(covariance)
    whitening = torch.linalg.solve_triangular(factor, torch.eye(len(factor), dtype=factor.dtype), upper=False)
    centre = means.mean(0)
    white = (means - centre) @ whitening.mT
    own = [tensor.to(device, torch.float32) for tensor in (centre, whitening, white, counts)]
    return Gaussians(own[0], own[1], own[2], own[3], weight=(1 - SHRINKAGE) / freedom)
