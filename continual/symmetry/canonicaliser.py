"""The view that looks most upright as a small picture (Kaba et al., ICML 2023, arXiv 2211.06489)."""

import torch.nn.functional as F
from torch import Tensor

from continual.backbones.base import FrozenBackbone
from continual.symmetry.upright import Upright
from equivariant.ties import best


class Canonicaliser(Upright):
    """φ(x) = φ(h·x), h = argmax_h s(h·x), for a linear score s of 8 x 8 pixels: one pass of the backbone."""

    name, looked, chooses = "canonicaliser", 1, True

    def describe(self, frozen: FrozenBackbone, views: Tensor) -> Tensor:
        """Return the pixels of small pictures."""
        return F.adaptive_avg_pool2d(views.flatten(0, 1), 8).flatten(1).unflatten(0, views.shape[:2])

    def weigh(self, described: Tensor) -> Tensor:
        """Return 1 for the most upright view, shared by those that tie."""
        return best(self.score(described), dim=1)
