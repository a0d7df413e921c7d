"""Equitune: the mean over the orbit (Basu et al., "Equi-Tuning", AAAI 2023, arXiv 2210.06475)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from equivariant.outputs import Extra
from equivariant.wrappers.base import WeightedWrapper


class Equitune(WeightedWrapper):
    """f(x) = (1/|G|) Σ_g g⁻¹∘M(g·x).

    Meant for fine-tuning: zero-shot, the mean mixes views the model reads well with ones it reads badly. Options as for
    `OrbitWrapper`.

    >>> model = Equitune(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 2)), "C4")
    >>> x = torch.rand(1, 3, 2, 2)
    >>> torch.allclose(model(x), model(x.rot90(1, (-2, -1))), atol=1e-6)
    True
    """

    name = "equitune"
    through_model = True

    def answer(self, x: Tensor, *args: Any, **kwargs: Any) -> tuple[Any, Tensor]:
        """Return the mean answer for `x` (B, …), and 1/|G| everywhere, (|G|, B)."""
        views = self.views(x, extra=Extra(args, kwargs))
        wide = torch.promote_types(x.dtype, torch.float32)
        weights = x.new_full((self.group.order, x.shape[0]), 1 / self.group.order, dtype=wide)
        return views.combine(weights), weights
