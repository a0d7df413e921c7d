"""A plugin that holds any Avalanche strategy to the answers it gave before the experience it learns."""

from __future__ import annotations

import copy
from typing import Any, Literal

import torch
from avalanche.training.plugins import SupervisedPlugin

from continual.errors import InputError
from continual.methods.bases.compatibility import kept_answers


class KeepAnswersPlugin(SupervisedPlugin):
    """Adds to a strategy's loss what keeps the answers of the model before, over the classes it knew.

    After every experience a copy of the model is kept; in later ones its answers on the minibatch are distilled, all
    alike (`kind="plain"`, which is Learning without Forgetting) or those that were right sixfold (`"focal"`). Without
    images of old classes in the minibatches, as a replay brings them, none was right, and both are the same. For `mos`
    and `slca` use their setting `keep_answers`.

    Raises InputError for another kind, or a weight that is no number from 0.
    """

    def __init__(self, weight: float = 1.0, kind: Literal["plain", "focal"] = "plain") -> None:
        super().__init__()
        if kind not in ("plain", "focal"):
            raise InputError(f"kind is 'plain' or 'focal', got {kind!r}")
        if not 0 <= weight < float("inf"):
            raise InputError(f"weight is a number from 0, got {weight}")
        self.weight, self.kind = weight, kind
        self.teacher: Any = None  #: the model after the experience before
        self.known: set[int] = set()  #: labels of that and earlier experiences

    def before_backward(self, strategy: Any, **_: Any) -> None:
        """Add the term to the minibatch's loss."""
        if self.teacher is None or not self.weight:
            return
        with torch.no_grad():
            old = self.teacher(strategy.mb_x)
        columns = sorted(self.known)
        student, targets = strategy.mb_output[:, columns], strategy.mb_y
        place = torch.full((max(int(targets.max()), *columns) + 1,), -1, device=targets.device)
        place[columns] = torch.arange(len(columns), device=targets.device)
        # A label that was unknown is -1, and equals no answer.
        term = kept_answers(self.kind, old[:, columns], student, student, place[targets])
        strategy.loss = strategy.loss + self.weight * term

    def after_training_exp(self, strategy: Any, **_: Any) -> None:
        """Keep a copy of the model."""
        self.teacher = copy.deepcopy(strategy.model).eval().requires_grad_(False)
        self.known |= {int(label) for label in strategy.experience.classes_in_this_experience}
