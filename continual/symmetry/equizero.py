"""The view most similar to a class mean of the first experience (Basu et al., NeurIPS 2023, arXiv 2305.09900)."""

import torch
from torch import Tensor

from continual.symmetry.base import Symmetry
from equivariant.parts.proxies import Similarity
from equivariant.ties import best


class Equizero(Symmetry):
    """φ(x) = φ(g*·x), g* = argmax_g max_c cos(φ(g·x), μ_c)."""

    name, reads_features, learns = "equizero", True, True

    def weigh(self, described: Tensor) -> Tensor:
        """Return 1 for the most similar view, shared by those that tie."""
        losses = Similarity(self.fitted["references"])(described.float().flatten(0, 1))
        return best(-losses.unflatten(0, described.shape[:2]), dim=1)

    def fit(self, described: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return the class means μ (C, D) of images as they were given."""
        given = described[:, 0].double()
        return {"references": torch.stack([given[targets == c].mean(0) for c in targets.unique()]).float()}
