"""A batch, its orbit under a group, and back; in chunks, so that memory stays bounded."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from equivariant.actions import Action, Images
from equivariant.errors import InputError
from equivariant.groups import FiniteGroup, as_group


def orbit(
    group: FiniteGroup | str, x: Tensor, action: Action | None = None, elements: Sequence[int] | None = None
) -> Tensor:
    """Return Gx, (|G|, B, …): `x` transformed by every element, or by those numbered in `elements`."""
    group, action = as_group(group), action or Images()
    views = torch.stack([action(group, g, x) for g in (range(group.order) if elements is None else elements)])
    if x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last):
        views = views.flatten(0, 1).contiguous(memory_format=torch.channels_last).unflatten(0, views.shape[:2])
    return views


def align(
    group: FiniteGroup | str, y: Tensor, action: Action | None = None, elements: Sequence[int] | None = None
) -> Tensor:
    """Undo the orbit: return g⁻¹∘y[g] for every element, (|G|, B, …) → (|G|, B, …)."""
    group, action = as_group(group), action or Images()
    numbers = range(group.order) if elements is None else elements
    if y.shape[0] != len(numbers):
        raise InputError(f"{y.shape[0]} outputs do not fit {len(numbers)} elements of {group.name}")
    return torch.stack([action(group, group.inverse(g), part) for g, part in zip(numbers, y, strict=True)])


def random_elements(group: FiniteGroup | str, count: int, generator: torch.Generator | None = None) -> Tensor:
    """Draw `count` element numbers uniformly, (count,) int64 on the CPU."""
    return torch.randint(as_group(group).order, (count,), generator=generator)


def act_each(group: FiniteGroup | str, elements: Tensor, x: Tensor, action: Action | None = None) -> Tensor:
    """Apply element `elements[i]` to `x[i]`: one element (B,) for each item of the batch (B, …)."""
    group, action = as_group(group), action or Images()
    result = torch.empty_like(x)
    for g in elements.unique().tolist():
        rows = (elements == g).nonzero().squeeze(1).to(x.device)
        result[rows] = action(group, g, x[rows])
    return result


def chunks(order: int, size: int | None) -> list[list[int]]:
    """Cut the numbers 0 … order - 1 into runs of at most `size`; one run if `size` is None.

    >>> chunks(5, 2)
    [[0, 1], [2, 3], [4]]
    """
    size = order if size is None else size
    return [list(range(start, min(start + size, order))) for start in range(0, order, size)]
