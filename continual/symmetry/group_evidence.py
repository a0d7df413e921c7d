"""Images left out with all their views, in closed form: what a group is worth, and whether images show how they lie.

An image is answered by a ridge regression on the others: on images as they are, or on all views that a group makes of
them. Both follow from one regression each (Allen, Technometrics 1974): no image is held out, nothing is trained twice.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from continual.statistics.ridge import GramStatistics, Standardised
from continual.symmetry.choice import FEWEST, NO_UP, GroupChoice
from continual.symmetry.views import group_named

#: groups that are asked about: those of rotations and mirrors that leave a picture on its sides
CANDIDATES = ("mirror_h", "mirror_v", "C2", "C4", "D4")
#: those that leave an up where it is
UPRIGHT = (None, "mirror_h")
#: the share of squared error that a group has to save before it is taken, where moved images are recognised in 80 %
MARGIN = 0.06
#: where they are in this share, as many images without an up are, it need not save any, and below it may cost some
NO_UP_SHARE = 0.65
#: images that are asked at most: all their views are run
MOST_IMAGES = 2000
#: the ridge's penalty for each number of a feature, as strata has it
PENALTY = 1 / 3


def left_out(views: Tensor, labels: Tensor) -> Tensor:
    """Return values (n, C) for images of features (n, m, D) of m views each, and classes (n,), left out with all views.

    Without rows I of a regression, whose residuals are e and whose projection is H, the residuals there are
    (1 - H_II)^-1 e_I. An image's value is the mean over its views.
    """
    each, classes = views.shape[1], int(labels.max()) + 1
    x, rows = views.flatten(0, 1).double(), labels.repeat_interleave(each)
    sums = GramStatistics.of(x, rows, classes)
    system = Standardised.of(sums, PENALTY * x.shape[1])
    targets = F.one_hot(rows, classes).to(x.dtype)
    errors = targets - system.solve(sums)(x)
    white, errors, targets = (part.unflatten(0, (-1, each)) for part in (system.white(x), errors, targets))
    kept = torch.eye(each, dtype=x.dtype) - white @ white.mT - 1 / len(x)
    return (targets - torch.linalg.solve(kept, errors)).mean(1)


def recognised(given: Tensor, moved: Tensor) -> float:
    """Return how often images (n, D) are distinguished from moved copies (n, D), each by a map fitted to the others.

    Half of them are by chance: then the images as they are look no different.
    """
    x = (given - moved).double()
    x = x / x.square().mean(0).sqrt().clamp(min=1e-12)
    gram = x.mT @ x
    gram.diagonal().add_(PENALTY * x.shape[1])
    solved = torch.linalg.solve(gram, torch.stack([*x, x.sum(0)], 1))
    leverage, values = (x * solved[:, :-1].mT).sum(1), x @ solved[:, -1]
    scores = (values - leverage) / (1 - leverage)
    return float((scores > 0).double().mean() + (scores == 0).double().mean() / 2)


@dataclass(frozen=True)
class Evidence:
    """What images say of a group."""

    group: str | None  #: None: images as they are
    views: int  #: the group's order
    accuracy: float  #: the share of images answered right that are left out, by all their views
    saved: float  #: which share of the squared error of images as they are is saved
    recognised: float  #: how often moved images are recognised, by the element that shows most; 0.5 by chance
    up: float  #: how often they are in the mean over what moves an up, whatever the group


def margin(up: float) -> float:
    """Return the share of squared error that all views have to save, where moved images are recognised so often.

    Of few images a class errors differ by chance, and whether images show an up is said by those of all classes.
    """
    return MARGIN * (max(up, 0.5) - NO_UP_SHARE) / (0.8 - NO_UP_SHARE)


def evidence(views: Tensor, labels: Tensor) -> list[Evidence]:
    """Return what images say of no group and of each candidate, by features (n, 8, D) of D4's views and classes (n,).

    Images that are their class's only one say nothing. Returns nothing if fewer than two classes are left.
    """
    several = labels.bincount()[labels] > 1
    views, labels = views[several], labels[several].unique(return_inverse=True)[1]
    if len(labels) == 0 or int(labels.max()) == 0:
        return []
    told = [0.5, *(recognised(views[:, 0], views[:, place]) for place in range(1, views.shape[1]))]
    moving = [place for place in range(1, views.shape[1]) if place not in places_of(str(UPRIGHT[1]))]
    up = sum(told[place] for place in moving) / len(moving)
    found, plain = [], 0.0
    for name in (None, *CANDIDATES):
        places = [0] if name is None else places_of(name)
        values = left_out(views[:, places], labels)
        error = float((values - F.one_hot(labels)).square().sum())
        plain = plain or error
        accuracy, most = float((values.argmax(1) == labels).double().mean()), max(told[place] for place in places)
        found.append(Evidence(name, len(places), accuracy, 1 - error / plain if plain else 0.0, most, up))
    return found


def choice_of(views: Tensor, labels: Tensor) -> GroupChoice:
    """Return what `group="auto"` takes, by features (n, 8, D) of D4's views and classes (n,)."""
    found = evidence(views, labels)
    if not found:
        return GroupChoice(0.0, 0.0, 0.0, 0)
    upright, whole = _upright(found), next(one for one in found if one.group == NO_UP)
    saved = _saved(whole, upright)
    group = NO_UP if len(labels) >= FEWEST and saved >= margin(whole.up) else None
    return GroupChoice(saved, upright.accuracy, whole.accuracy, len(labels), group, whole.up)


def advice(found: Sequence[Evidence]) -> Evidence:
    """Return what images are best taken for: what saves most, if it is enough to rely on."""
    none, upright = found[0], _upright(found)
    best = max((one for one in found if one.group not in UPRIGHT), key=lambda one: one.saved)
    if _saved(best, upright) >= margin(best.up):
        return best
    return upright if upright.saved >= MARGIN else none


def _upright(found: Sequence[Evidence]) -> Evidence:
    """Return what is best for images with an up: mirror images, as they are upright too, or none."""
    return max((one for one in found if one.group in UPRIGHT), key=lambda one: one.saved)


def _saved(one: Evidence, other: Evidence) -> float:
    """Return which share of the other's squared error one saves."""
    left = 1 - other.saved
    return 1 - (1 - one.saved) / left if left > 0 else 0.0


def places_of(name: str) -> list[int]:
    """Return where the elements of a group are among D4's, the identity first."""
    whole, part = group_named(NO_UP), group_named(name)
    order = sorted(range(whole.order), key=lambda g: g != whole.identity)
    return sorted(order.index(whole.elements.index(element)) for element in part.elements)


def some_of_each(labels: Sequence[Hashable], most: int, generator: torch.Generator) -> list[int]:
    """Return places of at most so many labels, drawn so that every class has as many as another, or all it has."""
    seen: dict[Hashable, int] = {}
    ranked = []
    for place in torch.randperm(len(labels), generator=generator).tolist():
        seen[labels[place]] = seen.get(labels[place], 0) + 1
        ranked.append((seen[labels[place]], place))
    return sorted(place for _, place in sorted(ranked)[:most])
