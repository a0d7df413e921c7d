"""An answer by as many of an image's views as it needs: they are finished one by one, until their mean is sure.

The answer is that of the mean over the views that were finished; of an image all of whose views are, it is the answer
by all views. The order is the symmetry's, which an image's content decides, and when to stop depends on nothing but the
image: so all its views get the same answer, and no other image has a part in it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, Protocol

import torch
from torch import Tensor

from continual.data.inputs import Label
from continual.errors import InputError
from continual.learning.answers import Scores
from continual.learning.extractor import Extractor
from continual.learning.feature_cache import FeatureCache
from continual.learning.state import learned
from continual.methods.bases.regression_update import RegressionState
from continual.symmetry import KINDS
from continual.symmetry.base import Symmetry
from continual.symmetry.choice import AUTO
from continual.symmetry.views import group_named
from continual.uncertainty.fewer_views import FewerViews, lead


class Learner(Protocol):
    """What a learner has that answers view by view; see `RegressionLearner`."""

    settings: Any

    @property
    def classes(self) -> tuple[Label, ...]: ...

    @property
    def symmetry(self) -> Symmetry | None: ...

    @property
    def extractor(self) -> Extractor: ...

    @property
    def current(self) -> RegressionState: ...

    @property
    def view_passes(self) -> tuple[int, int]: ...

    @property
    def view_reading(self) -> int: ...

    def design_features(self, extractor: Extractor, images: Tensor, cache: FeatureCache | None = None) -> Tensor: ...

    def view_features(self, extractor: Extractor, images: Tensor) -> Tensor: ...

    def scores_of(self, features: Tensor, views: int | None = None) -> Scores: ...


def check_views(learner: Learner) -> None:
    """Raise InputError if a learner's answers cannot be given by as few views as its settings ask for."""
    settings, passes = learner.settings, getattr(learner.settings, "passes", None)
    if passes is None:
        return
    asked = f"passes={passes:g}"
    if settings.group is None:
        raise InputError(f"{asked} is a mean over an image's views, and there is no group: add group='D4', say")
    group = group_named("D4" if settings.group == AUTO else settings.group)  # auto may choose it
    if not KINDS.get(settings.symmetry)(group, settings.views).one_by_one:
        raise InputError(
            f"{asked} finishes views one by one, and {settings.symmetry} does not average the features of views "
            "that count alike: choose symmetry='equitune', or leave passes out"
        )
    if not settings.orbit_statistics:
        raise InputError(f"{asked} needs single views to be learned: leave out orbit_statistics=False, or passes")
    if learner.symmetry is not None and passes < (each := learner.view_passes[1]):
        raise InputError(
            f"{asked} is too few: a view and its mirror image take {each}; learn with mirror=False, or allow more"
        )


def answered(learner: Learner, images: Tensor, cache: FeatureCache | None) -> Scores:
    """Score prepared images (B, 3, H, W) by all views, or by as many of them as the setting `passes` asks for."""
    symmetry, passes = learner.symmetry, getattr(learner.settings, "passes", None)
    if symmetry is None or passes is None:
        return learner.scores_of(learner.design_features(learner.extractor, images, cache))
    (whole, each), fewer = learner.view_passes, _fewer(learner, symmetry.looked)
    if passes >= symmetry.looked * whole or fewer is None:
        found = learner.scores_of(learner.design_features(learner.extractor, images, cache))
        return replace(found, passes=found.values.new_full((len(images),), symmetry.looked * whole))
    single, views = learner.extractor.untransformed, symmetry.orbit(images)[:, : symmetry.looked]
    limit = fewer.limit(learner.view_reading, passes / each)
    found = view_by_view(views, lambda rows: learner.view_features(single, rows), partial(judged, learner), limit)
    return replace(found, passes=learned(found.passes) * each)


def _fewer(learner: Learner, views: int) -> FewerViews | None:
    """Return what says when fewer views are enough; None, and a warning, where it is not known."""
    certain = learner.current.certainty
    fewer = None if certain is None else certain.fewer
    if fewer is not None and fewer.leads.shape[1] == views - 1:
        return fewer
    if len(learner.classes) > 1 and views > 1:
        warnings.warn(
            "no image was left out that says when fewer views are enough, so all are looked at: learn several images "
            "of each class with this version, or leave passes out",
            stacklevel=6,
        )
    return None


def judged(learner: Learner, features: Tensor, done: int) -> tuple[Scores, Tensor]:
    """Return the scores of means (B, D') over so many views, and by how much the best leads."""
    state, symmetry = learner.current, learned(learner.symmetry)
    t = learned(state.certainty).t(learned(state.head)(features), features)[0]
    return learner.scores_of(features, done if done < symmetry.looked else None), lead(t, done, symmetry.looked)


def view_by_view(
    views: Tensor, read: Callable[[Tensor], Tensor], judge: Callable[[Tensor, int], tuple[Scores, Tensor]], limit: float
) -> Scores:
    """Score images of views (B, m, 3, H, W); `passes` says how many views of each were finished.

    `read` gives features (n, D) of one view of each of some images; `judge` scores of means over so many views, and by
    how much the best leads, (n,): an image is finished once that is at least the limit.
    """
    left, total, found, finished = torch.arange(len(views), device=views.device), None, [], []
    for done in range(1, views.shape[1] + 1):
        features = read(views[left, done - 1])
        total = features if total is None else total + features
        scores, leads = judge(total / done, done)
        over = leads >= limit if done < views.shape[1] else torch.ones_like(leads, dtype=torch.bool)
        found.append(replace(scores.rows(over), passes=leads.new_full((int(over.sum()),), done)))
        finished.append(left[over])
        left, total = left[~over], total[~over]
        if not len(left):
            break
    return Scores.joined(found).rows(torch.cat(finished).argsort())
