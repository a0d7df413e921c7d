"""What a selection rule is: a pure function from features to the indices of those that are chosen."""

import torch
from torch import Tensor

from continual.registry import named
from continual.selection import RULES

#: Names a function `(features (n, D), count, generator) -> indices (count,)` as a selection rule. Indices differ from
#: one another, and fewer are the first of more: `rule(x, 3, g) == rule(x, 5, g)[:3]` for generators in the same state.
rule = named


def selected(name: str, features: Tensor, count: int, generator: torch.Generator) -> list[int]:
    """Return the indices of at most `count` rows of features (n, D) that the rule of that name chooses.

    `generator` is of the CPU. Raises InputError for an unknown rule.
    """
    chosen: list[int] = RULES.get(name)(features, min(count, len(features)), generator).tolist()
    return chosen
