"""Images drawn at random, each as likely as any other."""

import torch
from torch import Tensor

from continual.selection.base import rule


@rule("random")
def random(features: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return indices (count,) of features (n, D), which are not looked at."""
    return torch.randperm(len(features), generator=generator)[:count]
