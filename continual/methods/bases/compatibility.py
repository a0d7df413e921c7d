"""Losses that hold a model to the answers it gave before it was updated, where those were right.

A *negative flip* is an image that was answered right and is not now. Three ways to have fewer: distillation from the
old model, *plain* (Li and Hoiem, Learning without Forgetting, ECCV 2016), *focal*, which weighs what was right sixfold
(Yan et al., Positive-Congruent Training, CVPR 2021), and the mask of *MUSCLE* (Echterhoff et al., EMNLP Findings 2024),
which follows the old model where the one in training is wrong, and the new one before this training elsewhere.
"""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

Kind = Literal["plain", "focal", "muscle"]

#: both models' logits are divided by it
TEMPERATURE = 2.0
#: in `focal`, how much more an answer counts that was right
FOCUS = 5.0


def divergence(teacher: Tensor, student: Tensor) -> Tensor:
    """Return T^2 KL(softmax(teacher / T) || softmax(student / T)) of each row (B,), T = 2, over the teacher's classes.

    The teacher's (B, C) logits take no gradient; the student's are (B, C') of which the first C are the same classes.
    """
    own = F.log_softmax(student[:, : teacher.shape[1]] / TEMPERATURE, -1)
    wanted = F.log_softmax(teacher.detach() / TEMPERATURE, -1)
    return TEMPERATURE**2 * F.kl_div(own, wanted, log_target=True, reduction="none").sum(-1)


def kept_answers(kind: Kind, old: Tensor, new: Tensor, student: Tensor, targets: Tensor) -> Tensor:
    """Return the loss of rows of old classes: the mean over them, 0 for none.

    Args:
        kind: which of the three.
        old: (B, C), logits of the model before.
        new: (B, C'), logits that the updated model had before this training; `muscle` alone asks for them.
        student: (B, C'), those of the model in training.
        targets: (B,) int64, the classes, below C.
    """
    if not len(targets):
        return student.sum() * 0
    loss = divergence(old, student)
    if kind == "focal":
        loss = loss * (1 + FOCUS * (old.argmax(-1) == targets))
    elif kind == "muscle":
        wrong = student.argmax(-1) != targets
        loss = loss.where(wrong, divergence(new, student))
    return loss.mean()
