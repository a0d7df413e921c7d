"""PCB-Merging's variant in which adapters agree or disagree in pairs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from continual.merging.base import rule
from continual.merging.pcb import competition, to_unit


@rule("pairwise")
def pairwise(stacks: Tensor, start: Tensor, *, ratio: float = 0.2, strength: float | Sequence[float] = 1.0) -> Tensor:
    """Do as `pcb` with `inter = sum_j tanh(S_i S_j)`, S the magnitudes brought to 0 ... 1, with their signs."""

    def agreement(moved: Tensor, magnitudes: Tensor) -> Tensor:
        signed = moved.sign() * to_unit(magnitudes)
        return torch.stack([torch.tanh(own * signed).sum(0) for own in signed])

    return competition(stacks, start, agreement, ratio, strength)
