"""TIES: trim, elect a sign, and take the mean of those that agree (Yadav et al., NeurIPS 2023, arXiv 2306.01708)."""

import torch
from torch import Tensor

from continual.merging.base import checked_share, rule


@rule("ties")
def ties(stacks: Tensor, start: Tensor, *, ratio: float = 0.2, strength: float = 1.0) -> Tensor:
    """Return `start + strength * tau`, tau (P,) from the differences T_i of adapters (n, P) from their start.

    Of each T_i the `ratio` of largest magnitude is kept, as the published code counts it; where numbers tie with the
    last of them, all are. The sign of a coordinate is that of the kept ones' sum, and where that is 0, the sign of
    most coordinates. tau is the mean of the kept ones of that sign. One adapter alone is returned as it is. Raises
    InputError for a ratio outside (0, 1].
    """
    checked_share(ratio)
    if len(stacks) == 1:
        return stacks[0]
    differences = stacks - start
    size = differences.shape[1]
    least = differences.abs().kthvalue(max(1, size - int(size * ratio)), dim=1, keepdim=True).values
    kept = differences * (differences.abs() >= least)
    sign = kept.sum(0).sign()
    sign = torch.where(sign == 0, sign.sum().sign(), sign)
    agreeing = kept * torch.where(sign > 0, kept > 0, kept < 0)
    return start + strength * agreeing.sum(0) / (agreeing != 0).sum(0).clamp(min=1)
