"""Herding: the chosen features' mean follows the mean of all (iCaRL, Rebuffi et al., CVPR 2017, algorithm 4)."""

import torch
from torch import Tensor
from torch.nn.functional import normalize

from continual.selection.base import rule


@rule("herding")
def herding(features: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Return indices (count,) of features (n, D), scaled to length 1: greedily, the one that corrects the mean most."""
    rows = normalize(features.double(), dim=1)
    mean, total = rows.mean(0), torch.zeros_like(rows[0])
    left = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    chosen: list[int] = []
    for number in range(1, count + 1):
        gaps = (mean - (total + rows) / number).square().sum(1).masked_fill(~left, torch.inf)
        chosen.append(int(gaps.argmin()))
        left[chosen[-1]], total = False, total + rows[chosen[-1]]
    return torch.tensor(chosen, dtype=torch.int64)
