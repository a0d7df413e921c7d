"""Which answers changed between two models, the older f1 and the newer f2, on the same images.

The mean accuracy hides them: a user whose images used to be answered right notices every one that is not.
Negative flips are from positive-congruent training (Yan et al. 2021), inconsistency from MUSCLE (Echterhoff et
al. 2024), backward trust from Bansal et al. 2019.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import partial
from itertools import pairwise
from math import inf

import numpy as np
from numpy.typing import ArrayLike

from continual.metrics.base import Series, mean_of_later, metric
from continual.metrics.cell import Cell, derived


@dataclass(frozen=True)
class Flips:
    """Shares of N images; acc(f2) = acc(f1) + positive - negative."""

    negative: float  #: NFR, mean 1[f1 = y and f2 != y]: was right, is wrong
    positive: float  #: PFR, mean 1[f1 != y and f2 = y]: was wrong, is right
    inconsistency: float  #: mean 1[f2 != y and f1 != f2]: wrong, and not as it was wrong before
    backward_trust: float | None  #: of the images f1 got right, the share that f2 gets right; None if there is none
    relative_negative: float | None  #: NFR / (acc(f1) err(f2)): 1 if errors were independent; None where undefined


def flips(old: ArrayLike, new: ArrayLike, truth: ArrayLike) -> Flips:
    """Compare the answers of two models with the truth: three arrays (N,) on the same images in the same order.

    Raises ValueError for arrays that are empty or differ in shape.

    >>> flips(old=[0, 1, 1], new=[0, 0, 2], truth=[0, 1, 2])
    Flips(negative=0.333..., positive=0.333..., inconsistency=0.333..., backward_trust=0.5, relative_negative=1.5)
    """
    f1, f2, y = np.asarray(old), np.asarray(new), np.asarray(truth)
    if y.ndim != 1 or len(y) == 0 or not f1.shape == f2.shape == y.shape:
        raise ValueError(f"give one answer of each model per image, got shapes {f1.shape}, {f2.shape}, {y.shape}")
    was, now = f1 == y, f2 == y
    negative = float((was & ~now).mean())
    independent = float(was.mean() * (~now).mean())
    return Flips(
        negative=negative,
        positive=float((~was & now).mean()),
        inconsistency=float((~now & (f1 != f2)).mean()),
        backward_trust=float(now[was].mean()) if was.any() else None,
        relative_negative=negative / independent if independent else None,
    )


@derived("flips")
def between_models(cell: Cell) -> list[dict[str, float | None] | None]:
    """Return `Flips` against the model before, on the experiences it had learned; None for the first."""
    models = pairwise(cell.seen("answers"))
    return [None, *[asdict(flips(old, new[: len(old)], cell.truth[: len(old)])) for old, new in models]]


flip = partial(metric, table="further", reduce=mean_of_later, range=(0, 1))


@flip(
    heading="negative flips [%]", higher_is_better=False, table="main", order=40,
    curve="Answers that were right before an experience and are wrong after it, of all images that could be known.",
)  # fmt: skip
def negative_flips(cell: Cell) -> Series:
    """Of images two consecutive models can know, the share that was right and is wrong; the mean (Yan et al. 2021)."""
    return _share(cell, "negative")


@flip(heading="positive flips [%]", higher_is_better=None, order=41)
def positive_flips(cell: Cell) -> Series:
    """Of images two consecutive models can know, the share that was wrong and is right."""
    return _share(cell, "positive")


@flip(heading="inconsistency [%]", higher_is_better=False, order=42)
def inconsistency(cell: Cell) -> Series:
    """The share that is wrong and was answered otherwise before (Echterhoff et al. 2024)."""
    return _share(cell, "inconsistency")


@flip(heading="backward trust [%]", higher_is_better=True, order=43)
def backward_trust(cell: Cell) -> Series:
    """Of the images that were right, the share that still is (Bansal et al. 2019)."""
    return _share(cell, "backward_trust")


@flip(heading="relative negative flips", higher_is_better=False, order=44, factor=1, decimals=2, range=(0, inf))
def relative_negative_flips(cell: Cell) -> Series:
    """Negative flips over what independent errors would give: 1 is as bad as chance."""
    return _share(cell, "relative_negative")


def _share(cell: Cell, name: str) -> Series:
    return [None if found is None else found[name] for found in between_models(cell)]
