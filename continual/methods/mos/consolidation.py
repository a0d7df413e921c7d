"""MOS in one pass: a single stack for all classes, and what that costs, estimated without images.

Every stack shifts features, on the average by a vector that is remembered (`feature_shift`). So what is known
of a class under its own stack A_k can be said under the first: its statistics, moved back by the shift. One pass
under A_1 answers, with the head as it is. Aligning it anew on these statistics made it no better on real images, and
an estimate from the same statistics far too kind.
"""

from dataclasses import dataclass, replace

import torch

from continual.errors import InputError
from continual.methods.mos.learner import MOSLearner
from continual.seeding import generator
from continual.uncertainty.gaussians import calibrate


@dataclass(frozen=True)
class Estimate:
    """Shares of features drawn from the class statistics that are answered right."""

    before: float
    after: float


def consolidated(learner: MOSLearner) -> MOSLearner:
    """Return a learner of the same classes with the first stack alone; it can learn on. The one given stays.

    Raises InputError for one that has learned nothing, has a single stack already, or was learned before shifts
    were remembered.
    """
    state, settings = learner.state, learner.settings
    if state.head is None:
        raise InputError("nothing has been learned yet: call learn first")
    if state.experiences < 2:
        raise InputError("the model has a single stack already, and answers in one pass")
    if len(state.shifts) < state.experiences:
        raise InputError("this model was learned before the shifts of stacks were remembered: learn it anew")
    if settings.consolidate is not None:
        raise InputError("the shifts are those of the stacks as they were finished: leave the setting consolidate out")
    shift = torch.stack([s.mean for s in state.shifts])[state.experience_of_class]
    shift[state.experience_of_class == 0] = 0
    statistics = tuple(s.moved(-by) for s, by in zip(state.statistics, shift, strict=True))
    single = learner.variant()
    single.state = replace(
        state,
        class_experience=(0,) * len(state.classes),
        experiences=1,
        bank=state.bank[:1],
        shifts=state.shifts[:1],
        shift_sums=state.shift_sums and state.shift_sums.beginning(),
        statistics=statistics,
        calibration=calibrate(statistics, generator(settings.seed, "calibration", state.updates)),
    )
    return single


def estimate(learner: MOSLearner, single: MOSLearner) -> Estimate:
    """Return how often each answers right for features drawn from what `learner` remembers; no image is needed."""
    state, settings = learner.state, learner.settings
    draw = generator(settings.seed, "consolidation", state.updates, device=learner.device)
    experience = state.experience_of_class
    shifts = learner.shift_model(draw)
    first, features_of = shifts.simulated(experience, state.statistics, draw, settings.covariance_floor)
    before, _ = learner.answering().retrieve(first, features_of)
    after, _ = single.answering().retrieve(first, lambda rows, stacks: first[rows])
    truth = torch.arange(len(state.classes), device=first.device).repeat_interleave(len(first) // len(state.classes))
    return Estimate(*(float((scores.argmax(-1) == truth).float().mean()) for scores in (before, after)))
