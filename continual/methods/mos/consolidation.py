"""MOS in one pass: a single adapter for all classes, and what that costs, estimated without images.

Every stack shifts features, on the average by a vector that is remembered (`feature_shift`). So what is known
of a class under its own stack A_k can be said under the first: its statistics, moved back by the shift. One pass
under A_1 answers, with the head as it is. Aligning it again on these statistics made it no better on real images, and
an estimate from the same statistics far too kind.

Instead of the first, the single adapter can be a merge A* of all by a rule of `continual.merging`. To first order
features are linear in a stack, so that A* - A_1 = sum_k c_k (A_k - A_1) shifts them by sum_k c_k shift_k; c are the
coefficients of least squares.

Concepts that are ignored stay so. An adapter that was trained without reading one does not read it merged. What a
suppressed one changes in features are differences of two images, from which a shift of both drops out: it stays as it
is, and the head that is corrected by it is made from the statistics that were moved.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from continual.adapters.base import Weights
from continual.errors import InputError
from continual.merging.base import merged
from continual.methods.bases.adapter_training import beginning, unread
from continual.methods.mos.learner import MOSLearner
from continual.seeding import generator
from continual.statistics.head import Prototypes
from continual.uncertainty.gaussians import calibrate


@dataclass(frozen=True)
class Estimate:
    """Shares of features drawn from the class statistics that are answered right."""

    before: float
    after: float


def consolidated(learner: MOSLearner, rule: str = "first", **settings: Any) -> MOSLearner:
    """Return a learner of the same classes with one stack alone; it can learn on. The one given stays.

    The stack is the first, or all of them merged by the rule of that name, with its `settings` (`ratio` of "pcb", say).
    Raises InputError for an unknown rule or setting, and for a learner that has learned nothing, has a single adapter
    already, or was learned before shifts were remembered.
    """
    state = learner.state
    if state.head is None:
        raise InputError("nothing has been learned yet: call learn first")
    if state.experiences < 2:
        raise InputError("the model has a single adapter already, and answers in one pass")
    if learner.by_regression:
        raise InputError(
            "with stage_one='ridge' the heads of experiences stay apart: there is no single adapter for them"
        )
    if len(state.shifts) < state.experiences:
        raise InputError("this model was learned before the shifts of adapters were remembered: learn it again")
    if learner.settings.consolidate is not None:
        raise InputError("the shifts are those of adapters as they were finished: leave the setting consolidate out")
    if rule == "first" and settings:
        raise InputError(f"the first adapter is taken as it is, without {', '.join(settings)}: name a rule of merging")
    stack = state.bank[0] if rule == "first" else _merged(learner, rule, settings)
    means = torch.stack([s.mean for s in state.shifts])
    means[0] = 0
    to_stack = means.new_zeros(means.shape[1]) if rule == "first" else coefficients(stack, state.bank).to(means) @ means
    by = to_stack - means[state.experience_of_class]
    statistics = tuple(s.moved(own) for s, own in zip(state.statistics, by, strict=True))
    prototypes, sums = state.prototypes, state.shift_sums and state.shift_sums.beginning()
    assert prototypes is not None
    single = learner.variant()
    single.state = replace(
        state,
        class_experience=(0,) * len(state.classes),
        experiences=1,
        bank=(stack,),
        prototypes=Prototypes(prototypes.mean + to_stack, prototypes.count),
        shifts=state.shifts[:1],
        shift_sums=sums and replace(sums, origins=sums.origins + to_stack),
        statistics=statistics,
        calibration=calibrate(statistics, generator(learner.settings.seed, "calibration", state.updates)),
    )
    return single


def _merged(learner: MOSLearner, rule: str, settings: dict[str, Any]) -> Weights:
    """Return all stacks merged into one, as differences from what they began at."""
    bank = learner.state.bank
    begin = beginning(learner.settings, learner.backbone, bank[0])
    single = merged(rule, bank, begin, only=bank[-1].keys(), **settings)
    return unread(learner.settings, single, learner.state.ignored)


def coefficients(stack: Weights, bank: Sequence[Weights]) -> Tensor:
    """Return c (T,) of least squares in `stack - A_1 = sum_k c_k (A_k - A_1)`; that of A_1 itself is 0.

    Stacks that are the same share what they have, as the shortest of all solutions does.
    """
    rows = torch.stack([_flat(one, bank[-1]) for one in bank])
    moved = (rows[1:] - rows[0]).cpu().double()
    wanted = (_flat(stack, bank[-1]) - rows[0]).cpu().double()
    solution = torch.linalg.pinv(moved @ moved.mT, rtol=1e-10, hermitian=True) @ (moved @ wanted)
    return torch.cat([solution.new_zeros(1), solution])


def _flat(weights: Weights, like: Weights) -> Tensor:
    return torch.cat([weights[name].flatten() for name in like])


def estimate(learner: MOSLearner, single: MOSLearner) -> Estimate:
    """Return how often each answers right for features drawn from what `learner` remembers; no image is needed."""
    state, settings = learner.state, learner.settings
    assert state.prototypes is not None
    assert single.state.prototypes is not None
    draw = generator(settings.seed, "consolidation", state.updates, device=learner.device)
    experience = state.experience_of_class
    shifts = learner.shift_model(draw)
    first, features_of = shifts.simulated(experience, state.statistics, draw, settings.covariance_floor)
    before, _ = learner.answering().retrieve(first, features_of)
    under = first + (single.state.prototypes.mean[:1] - state.prototypes.mean[:1])
    after, _ = single.answering().retrieve(under, lambda rows, stacks: under[rows])
    truth = torch.arange(len(state.classes), device=first.device).repeat_interleave(len(first) // len(state.classes))
    return Estimate(*(float((scores.argmax(-1) == truth).float().mean()) for scores in (before, after)))
