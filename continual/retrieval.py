"""Self-refined adapter retrieval (MOS section 3.3), vectorised over the batch and pure.

Which experience's stack should serve an image is not known at test time. Stage one asks the prototypes
under the first stack; then the head's own answer under the chosen stack names the next stack, until an
image's choice no longer changes. Only the stacks that are visited are ever run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True)
class Retrieval:
    """What refinement settled on, an image a row."""

    logits: Tensor  #: (B, C), the head's answer under the last stack that was run
    stack: Tensor  #: (B,) int64, the stack that produced `logits`, counted from 0
    path: Tensor  #: (B, rounds) int64, the stacks that were run, in order, padded with -1

    @property
    def refinements(self) -> Tensor:
        """How often each image's stack was changed after stage one: (B,) int64."""
        return (self.path >= 0).sum(-1) - 1


def cosine_scores(features: Tensor, prototypes: Tensor) -> Tensor:
    """Return the cosine of every feature (B, D) with every prototype (C, D): (B, C)."""
    return F.normalize(features, dim=-1) @ F.normalize(prototypes, dim=-1).mT


def refine(
    first_choice: Tensor,
    logits_of: Callable[[Tensor, Tensor], Tensor],
    class_experience: Tensor,
    rounds: int = 4,
) -> Retrieval:
    """Refine each image's choice of stack at most `rounds` times.

    `first_choice` is (B,) int64. `logits_of(images, stacks)` returns the head's logits (M, C) for the
    M images with the given indices, each under its own stack. `class_experience` (C,) says which
    experience introduced each class. An image stops as soon as its answer belongs to the stack it was
    computed with; the logits kept are those of the last evaluation.
    """
    batch, device = len(first_choice), first_choice.device
    logits = torch.zeros(batch, len(class_experience), device=device)
    stack = first_choice.clone()
    path = torch.full((batch, rounds), -1, dtype=torch.int64, device=device)
    moving, wanted = torch.arange(batch, device=device), first_choice
    for step in range(rounds):
        if len(moving) == 0:
            break
        answer = logits_of(moving, wanted)
        logits[moving], stack[moving], path[moving, step] = answer.to(logits.dtype), wanted, wanted
        asked = class_experience[answer.argmax(-1)]
        changed = asked != wanted
        moving, wanted = moving[changed], asked[changed]
    return Retrieval(logits, stack, path)


def ensemble(logits: Tensor, prototype_scores: Tensor, experiences: int) -> Tensor:
    """Return `softmax(logits) + softmax(p0 * T)`, T the number of experiences learned (MOS, eq. 12)."""
    return logits.softmax(-1) + (prototype_scores * experiences).softmax(-1)
