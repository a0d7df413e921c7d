"""Answers of chosen elements only: for each image of a batch, some of the views of its orbit.

The pairs (element g, image b) with a weight above 0 are laid out as rows, sorted by element, so that each element's
images are transformed together and the model runs once over all rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from equivariant.actions import Action
from equivariant.groups import FiniteGroup
from equivariant.outputs import Representation, check_length, leaves, rebuild, skeleton

Check = Callable[[Tensor, list[int]], None]


@dataclass(frozen=True)
class Chosen:
    """Chosen views of a batch of B images, with weights (|G|, B) that sum to 1 over the group."""

    group: FiniteGroup
    weights: Tensor

    @property
    def images(self) -> Tensor:
        """The number of each row's image, (R,)."""
        return self.rows % self.weights.shape[1]

    @property
    def rows(self) -> Tensor:
        """The place of each row in an orbit laid flat, (|G|·B,) → (R,): g·B + b, ascending."""
        return (self.weights > 0).flatten().nonzero().squeeze(1)

    def _images(self) -> list[tuple[int, Tensor]]:
        """Each element with the numbers of the images that chose it, if any did."""
        numbered = [(g, (row > 0).nonzero().squeeze(1)) for g, row in enumerate(self.weights)]
        return [(g, images) for g, images in numbered if len(images)]

    def views(self, x: Tensor, action: Action) -> Tensor:
        """Return the chosen views g·x[b] of `x` (B, …), (R, …)."""
        return torch.cat([action(self.group, g, x[images]) for g, images in self._images()])

    def combine(self, output: Any, representation: Representation | None, like: Tensor, check: Check) -> Any:
        """Return Σ_g w[g] g⁻¹∘y over the rows of the model's output y (R, …) for a batch `like` (B, …).

        `check` sees the answers of each element, (1, n, …) and [g], first.
        """
        chosen = self._images()
        tensors = []
        for action, tensor in leaves(representation, output, like):
            check_length(tensor, sum(len(images) for _, images in chosen))
            wide = torch.promote_types(tensor.dtype, torch.float32)
            total: Tensor | None = None
            for (g, images), part in zip(chosen, tensor.split([len(images) for _, images in chosen]), strict=True):
                check(part[None], [g])
                back = action(self.group, self.group.inverse(g), part)
                back = back * self.weights[g, images].to(wide).reshape(-1, *[1] * (back.ndim - 1))
                if total is None:
                    total = back.new_zeros(self.weights.shape[1], *back.shape[1:])
                total = total.index_add(0, images, back)
            assert total is not None
            tensors.append(total.to(tensor.dtype))
        return rebuild(skeleton(output), iter(tensors))
