"""How strongly a linear regression should be held back, told from its sums alone.

Generalised cross-validation (Golub, Heath and Wahba, Technometrics 1979) estimates the squared error on images that
were not learned as RSS / (1 - df / n)^2, n images, RSS what the regression leaves of their targets and df its degrees
of freedom. Both follow from the eigenvalues of the features' products, so no image is needed, nor held out.
"""

from __future__ import annotations

from torch import Tensor

#: the penalties tried, in mean eigenvalues: quarters of decades, the strongest first
PENALTIES = tuple(10 ** (k / 4) for k in range(8, -17, -1))


def best_penalty(values: Tensor, explained: Tensor, total: float, count: float) -> tuple[float, float]:
    """Return the penalty of least expected error, and which share of the targets it should leave unexplained.

    Args:
        values: (D,), the eigenvalues of sum x x^T, of centred features.
        explained: (D,), for each, the squared length of sum x y^T along its eigenvector.
        total: the sum of all squared targets, centred.
        count: how many images were summed, less the means that were taken from them.
    """
    values = values.clamp(min=0)
    unit, best = float(values.mean().clamp(min=1e-12)), (float("inf"), float("inf"))
    for penalty in PENALTIES:
        held = values + penalty * unit
        left = total - float((explained * (2 / held - values / held.square())).sum())
        free = count - float((values / held).sum())
        share = max(left, 0.0) / total * (count / free) ** 2 if total > 0 and free > 0 else 1.0
        if share < best[1]:
            best = penalty * unit, share
    return best
