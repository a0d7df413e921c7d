"""An answer by as many of an image's views as it needs: they are finished one by one, until their mean is sure.

The answer is that of the mean over the views that were finished; of an image all of whose views are, it is the answer
by all views. The order is the symmetry's, which an image's content decides, and when to stop depends on nothing but the
image: so all its views get the same answer, and no other image has a part in it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from continual.errors import InputError
from continual.learning.answers import Scores
from continual.learning.settings import Settings
from continual.symmetry import KINDS
from continual.symmetry.choice import AUTO
from continual.symmetry.views import group_named


def check_passes(settings: Settings, passes: float | None) -> None:
    """Raise InputError if answers cannot be given by fewer than all views under such settings."""
    if passes is None:
        return
    asked = f"passes={passes:g}"
    if settings.group is None:
        raise InputError(
            f"{asked} is a mean over an image's views, and there is no group: add group='D4', or leave it out"
        )
    if settings.group != AUTO:
        symmetry = KINDS.get(settings.symmetry)(group_named(settings.group), settings.views)
        if not symmetry.one_by_one:
            raise InputError(
                f"{asked} finishes views one by one, and {settings.symmetry} does not average the features of views "
                "that count alike: choose symmetry='equitune', or leave passes out"
            )
    if not settings.orbit_statistics:
        raise InputError(f"{asked} needs single views to be learned: leave out orbit_statistics=False, or passes")


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
