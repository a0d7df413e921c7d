"""The "elect" step of EMR-merging (Huang et al., NeurIPS 2024, arXiv 2405.17461), by which TUNA fuses its adapters."""

import torch
from torch import Tensor

from continual.merging.base import rule


@rule("elect")
def elect(stacks: Tensor, start: Tensor) -> Tensor:
    """Return, number by number of adapters (T, P), the largest on the side of zero that their mean is on.

    Numbers are taken as they are, wherever adapters began.

    >>> elect(torch.tensor([[1.0], [-3.0], [2.5]]), torch.zeros(1)), elect(torch.tensor([[1.0], [-3.0], [1.0]]), ...)
    (tensor([2.5000]), tensor([-3.]))
    """
    side = torch.where(stacks.mean(0) > 0, 1.0, -1.0).to(stacks.dtype)
    return side * (side * stacks).amax(0).clamp(min=0)
