"""PCB-Merging: coordinates compete inside an adapter and between adapters (Du et al., NeurIPS 2024, 2410.02396)."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from continual.errors import InputError
from continual.merging.base import checked_share, rule

#: the share of a task vector's largest and of its smallest magnitudes that are clamped
OUTLIERS = 1e-4
#: exp of more overflows double precision
LARGEST = 700.0


@rule("pcb")
def pcb(stacks: Tensor, start: Tensor, *, ratio: float = 0.2, strength: float | Sequence[float] = 1.0) -> Tensor:
    """Return the merge of adapters (n, P), each by the weight of its coordinates in `competition`.

    With T (n, P) the differences from the start, the weight is made of

        intra = exp(n minmax(|T|)^2)            how much a coordinate matters inside its own adapter
        inter = tanh(T_i * sum_j T_j)           how much the others agree, itself included

    Outside the `ratio` of each adapter's largest `intra * inter` it is 0. `strength` is one factor for all adapters or
    one for each. One adapter alone is returned as it is. Raises InputError for a ratio outside (0, 1], and for as many
    factors as there are no adapters.
    """
    return competition(stacks, start, lambda moved, _: torch.tanh(moved * moved.sum(0)), ratio, strength)


def competition(
    stacks: Tensor,
    start: Tensor,
    agreement: Callable[[Tensor, Tensor], Tensor],
    ratio: float,
    strength: float | Sequence[float],
) -> Tensor:
    """Return `start + sum_i w_i strength_i T_i / sum_i w_i` (P,), in double precision until it is returned.

    w (n, P) is `intra * agreement(T, magnitudes)`, clamped from below to what `ratio` of each adapter exceeds and
    brought to 0 ... 1.
    """
    checked_share(ratio)
    if len(stacks) == 1:
        return stacks[0]
    count = len(stacks)
    moved = (stacks - start).cpu().double()  # MPS lacks float64
    factors = torch.as_tensor(strength, dtype=torch.float64)
    if factors.ndim and len(factors) != count:
        raise InputError(f"{len(factors)} strengths for {count} adapters: give one for all, or one for each")
    magnitudes = clamped(moved.abs(), OUTLIERS, OUTLIERS)
    intra = torch.exp(count * to_unit(magnitudes) ** 2 - max(0.0, count - LARGEST))
    weights = to_unit(clamped(intra * agreement(moved, magnitudes), 1 - ratio, 0))
    task = moved.sign() * magnitudes * factors.view(-1, *[1] * factors.ndim)
    merged = (task * weights).sum(0) / weights.sum(0).clamp(min=1e-12)
    return start + merged.to(start)


def clamped(x: Tensor, low: float, high: float) -> Tensor:
    """Return x (n, P), each row clamped to what is left without its share `low` of least and `high` of largest."""
    ordered, size = x.sort(dim=1).values, x.shape[1]
    least = ordered[:, [int(size * low)]] if low < 1 else ordered[:, [-1]]
    return x.clamp(least, ordered[:, [max(0, int(size * (1 - high) - 1))]])


def to_unit(x: Tensor) -> Tensor:
    """Return x (n, P), each row brought to 0 ... 1; one of equal numbers becomes ones."""
    least, largest = x.aminmax(dim=1, keepdim=True)
    return torch.where(largest > least, (x - least) / (largest - least), 1.0)
