"""Self-refined adapter retrieval (MOS section 3.3), vectorised over the batch and pure.

Which experience's adapter should serve an image is not known at test time. Stage one asks the prototypes
under the first adapter; then the head's own answer under the chosen one names the next, until an
image's choice no longer changes. Only the adapters that are visited are ever run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from continual.statistics.head import Head, cosine_scores


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

    def with_rows(self, rows: Tensor, other: Retrieval) -> Retrieval:
        """Return the same with some images' (M,) results taken from `other`."""
        pairs = zip(vars(self).values(), vars(other).values(), strict=True)
        return Retrieval(*[mine.index_copy(0, rows, theirs) for mine, theirs in pairs])


def refine(
    first_choice: Tensor, logits_of: Callable[[Tensor, Tensor], Tensor], class_experience: Tensor, rounds: int = 4
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


@dataclass(frozen=True)
class Answering:
    """What decides an answer once features are known."""

    head: Head
    prototypes: Tensor  #: (C, D)
    class_experience: Tensor  #: (C,) int64
    rounds: int
    combine: Callable[[Tensor, Tensor], Tensor]  #: logits (B, C) and prototype scores (B, C) to scores (B, C)

    def stage_one(self, first: Tensor) -> tuple[Tensor, Tensor]:
        """Return the cosines (B, C) of features under the first stack, and the stacks (B,) they choose."""
        cosines = cosine_scores(first, self.prototypes)
        return cosines, self.class_experience[cosines.argmax(-1)]

    def retrieve(self, first: Tensor, features_of: Callable[[Tensor, Tensor], Tensor]) -> tuple[Tensor, Retrieval]:
        """Return scores (B, C) and what was retrieved for features (B, D) under the first stack.

        `features_of(rows (M,), stacks (M,))` gives features (M, D) of some images, each under its stack.
        """
        cosines, choice = self.stage_one(first)

        def logits_of(rows: Tensor, stacks: Tensor) -> Tensor:
            return self.head(features_of(rows, stacks))

        found = refine(choice, logits_of, self.class_experience, self.rounds)
        return self.combine(found.logits, cosines), found


def margins(scores: Tensor) -> Tensor:
    """Return by how much the answer leads, (B,), in scores (B, C)."""
    if scores.shape[1] == 1:
        return torch.full_like(scores[:, 0], torch.inf)
    best = scores.topk(2, dim=1).values
    return best[:, 0] - best[:, 1]
