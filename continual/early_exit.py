"""Retrieval that stops early: where the answer is sure without another pass, there is none.

A stack shifts the features of all images in much the same way: on the average of its own training images, by
`phi(x; A_k) - phi(x; A_1)`. Added to what stage one has computed, the shift foretells what self-refined retrieval
would find, at no cost. Where the foretold answer leads by a wide enough margin it is taken; the other images go the
whole way.

How wide is decided by what is remembered of the classes, without images: features are drawn from the class
statistics, and each shift, with its spread, from those of the shifts; both ways answer for them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

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
    device = answering.prototypes.device
    own = answering.class_experience.repeat_interleave(DRAWS)
    mine = torch.cat([s.mean + WIDER * (s.sampler(floor).draw(DRAWS, generator) - s.mean) for s in statistics])
    # A shift for every draw and stack; the first stack has none.
    shifted = torch.stack([s.sampler(floor).draw(len(mine), generator) for s in shifts])
    shifted[0] = 0
    row = torch.arange(len(mine), device=device)
    first = mine - shifted[own, row]

    truth, _ = answering.retrieve(first, lambda rows, stacks: first[rows] + shifted[stacks, rows])
    guess, _ = answering.foretold(first, torch.stack([s.mean for s in shifts]))
    lead, order = margins(guess).sort(descending=True)
    wrong = (truth.argmax(-1) != guess.argmax(-1))[order].cumsum(0)
    enough = lead[wrong <= tolerance * len(mine)]
    return float(enough[-1]) if len(enough) else float("inf")
