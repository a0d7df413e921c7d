"""Soft symmetry: how far a model is from equivariant, as a term of its own training."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from equivariant.actions import Action, Images
from equivariant.groups import FiniteGroup, as_group
from equivariant.orbits import act_each, random_elements
from equivariant.outputs import Representation, check_batch, leaves, tensors


def equivariance_loss(
    model: nn.Module | Callable[[Tensor], object],
    group: FiniteGroup | str,
    x: Tensor,
    *,
    input: Action | None = None,
    output: Representation | None = None,
    distance: Callable[[Tensor, Tensor], Tensor] = functional.mse_loss,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return the distance of M(g·x) from g∘M(x) for `x` (B, …), a random element g for each image; 0 if equivariant.

    Add it to a loss, `loss + 0.1 * equivariance_loss(model, "C4", images)`, where a symmetry shall be favoured and not
    enforced: it takes two passes, and the model stays as it is. Gradients flow through both sides. Of several outputs
    the distances are summed; `input` and `output` say how the group acts, as for wrappers.
    """
    group, input = as_group(group), input or Images()
    check_batch(x)
    input.check(group, x)
    elements = random_elements(group, x.shape[0], generator)
    plain = leaves(output, model(x), x)
    moved = [tensor for _, tensor in tensors(model(act_each(group, elements, x, input)))]
    distances = [
        distance(other, act_each(group, elements, one, action))
        for (action, one), other in zip(plain, moved, strict=True)
    ]
    return torch.stack(distances).sum()
