"""Stage one of MOS by strata's ridge regression, and the answer that follows from it.

The nearest prototype is a poor judge of the experience an image belongs to. `strata` is a better one. With
`stage_one="ridge"` a strata is learned beside the adapters, of tokens under the first one, which no later experience
changes: its sums stay true, and the order of later experiences does not matter to it; of frozen tokens, no order does.
It says p(c | x); e is the experience of its answer. The score of a class is then

    p(c | x)                                                          for classes of other experiences,
    p(e | x) q(c) / sum_{c' in e} q(c'),   q(c) = p(c | x) h(c)^w     for those of e,

with p(e | x) the sum of p over e, and h the softmax within e of MOS's head under the adapter of e, which was trained to
tell these classes apart. Scores sum to 1, and the probability of every experience stays what it was. With w = 0, the
default, the answer takes strata's passes alone; else one more under one adapter.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from continual.adapters.base import Adapters
from continual.errors import InputError
from continual.learning.answers import Scores
from continual.learning.learner import IncrementalLearner
from continual.learning.settings import Settings
from continual.methods.bases.regression_update import RegressionState
from continual.methods.strata import StrataLearner, StrataSettings


def regression_of(
    learner: IncrementalLearner[Any], known: RegressionState | None, adapters: Adapters | None
) -> StrataLearner:
    """Return strata on a learner's backbone, under adapters, by its settings as far as both have them.

    It knows what is `known`. Raises InputError where nothing is, but the learner has learned classes.
    """
    if known is None and learner.classes:
        raise InputError("this model was learned with stage_one='prototypes': leave the setting so, or learn again")
    shared = {name: getattr(learner.settings, name) for name in Settings.model_fields}
    found = StrataLearner(learner.backbone, StrataSettings(**shared), device=learner.device)
    # The group that was chosen is the learner's, before anything is learned, too.
    found.store, found.state = learner.store, replace(known or RegressionState(), choice=learner.state.choice)
    found.adapters = adapters
    return found


def first_answer(said: Scores, class_experience: Tensor) -> tuple[Tensor, Tensor]:
    """Return the probabilities (B, C) that stage one goes by, and the experiences (B,) of their answers.

    Where nothing says how sure the regression may be, these are the softmax of its values.
    """
    p = said.values if said.probabilities is None else said.probabilities
    return p, class_experience[p.argmax(-1)]


def refined(p: Tensor, logits: Tensor, found: Tensor, class_experience: Tensor, within: float) -> Tensor:
    """Return the scores (B, C) of probabilities (B, C) and the head's logits (B, C) under the adapters `found` (B,).

    `class_experience` (C,) says which experience introduced each class, `within` what the head counts for.
    """
    own = class_experience == found[:, None]
    head = logits.masked_fill(~own, -torch.inf).log_softmax(-1)
    shares = (p.clamp(min=torch.finfo(p.dtype).tiny).log() + within * head).masked_fill(~own, -torch.inf).softmax(-1)
    return torch.where(own, shares * (p * own).sum(-1, keepdim=True), p)
