"""Retrieval that stops early: where the answer is sure without another pass, there is none.

A stack shifts the features of all images in much the same way: on the average of its own training images, by
`phi(x; A_k) - phi(x; A_1)`. Added to what stage one has computed, the shift foretells what self-refined retrieval
would find, at no cost. Where the foretold answer leads by a wide enough margin it is taken; the other images go the
whole way.

How wide is decided by what is remembered of the classes, without images: features are drawn from the class
statistics, and each shift, with its spread, from those of the shifts; both ways answer for them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from continual.class_statistics import ClassStatistics
from continual.retrieval import Answering, margins

DRAWS = 64  #: of a class
#: Draws are spread this much wider than the training images: new images are less like them than they are.
WIDER = 2**0.5


def least_margin(
    answering: Answering,
    statistics: Sequence[ClassStatistics],
    shifts: Sequence[ClassStatistics],
    tolerance: float,
    generator: torch.Generator,
    floor: float = 1e-4,
) -> float:
    """Return the least margin at which at most a share `tolerance` of all draws is answered otherwise.

    `statistics` are the classes' under their own stacks, `shifts` each stack's. `generator` decides every draw.
    """
    first, features_of = imagined(answering.class_experience, statistics, shifts, generator, floor)
    truth, _ = answering.retrieve(first, features_of)
    guess, _ = answering.foretold(first, torch.stack([s.mean for s in shifts]))
    lead, order = margins(guess).sort(descending=True)
    wrong = (truth.argmax(-1) != guess.argmax(-1))[order].cumsum(0)
    enough = lead[wrong <= tolerance * len(first)]
    return float(enough[-1]) if len(enough) else float("inf")


def imagined(
    class_experience: Tensor,
    statistics: Sequence[ClassStatistics],
    shifts: Sequence[ClassStatistics],
    generator: torch.Generator,
    floor: float = 1e-4,
) -> tuple[Tensor, Callable[[Tensor, Tensor], Tensor]]:
    """Return features (n, D) under the first stack, DRAWS of each class in turn, and those under other stacks.

    The latter as a function of rows (M,) and stacks (M,), see `Answering.retrieve`. `class_experience` is (C,); the
    others are as in `least_margin`.
    """
    samplers = [s.sampler(floor) for s in shifts]

    def drawn(stacks: Tensor) -> Tensor:
        """Draw a shift (M, D) for each of M stacks, only where it is asked for; the first has none."""
        found = torch.zeros(len(stacks), len(statistics[0].mean), device=stacks.device)
        for stack in stacks[stacks > 0].unique().tolist():
            rows = stacks == stack
            found[rows] = samplers[stack].draw(int(rows.sum()), generator)
        return found

    own = class_experience.repeat_interleave(DRAWS)
    mine = torch.cat([s.mean + WIDER * (s.sampler(floor).draw(DRAWS, generator) - s.mean) for s in statistics])
    first = mine - drawn(own)

    def features_of(rows: Tensor, stacks: Tensor) -> Tensor:
        at_home = (stacks == own[rows]).unsqueeze(-1)
        return torch.where(at_home, mine[rows], first[rows] + drawn(stacks))

    return first, features_of
