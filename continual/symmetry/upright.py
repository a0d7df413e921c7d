"""A linear score of how upright a view looks, fitted to images as they are given: what several kinds weigh views by."""

import torch
import torch.nn.functional as F
from torch import Tensor

from continual.symmetry.base import Symmetry

#: How strongly a fitted score's weights are held back: the best of 1, 10 and 100 on classes chosen for that.
PENALTY = 100.0


class Upright(Symmetry):
    """What kinds have that score views, linearly by what is read of them."""

    learns = True

    def score(self, described: Tensor) -> Tensor:
        """Return how upright views as described (B, m, K) look, (B, m)."""
        own = self.fitted
        return ((described.float() - own["centre"]) / own["deviation"] * own["weight"]).sum(-1)

    def fit(self, described: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return the linear score under whose softmax over an orbit the views as given, or upright, are likeliest."""
        x = described.double()
        centre, deviation = x.mean((0, 1)), x.std((0, 1), correction=0).clamp(min=1e-6)
        weight = _likeliest((x - centre) / deviation)
        return {"centre": centre.float(), "deviation": deviation.float(), "weight": weight.float()}


def _likeliest(x: Tensor) -> Tensor:
    """Return w (K,) that minimises the mean of -log softmax(x w)[0] + PENALTY / 2n |w|^2, for views (n, m, K)."""
    weight = torch.zeros(x.shape[-1], dtype=x.dtype, device=x.device, requires_grad=True)
    first = torch.zeros(len(x), dtype=torch.int64, device=x.device)
    optimizer = torch.optim.LBFGS([weight], max_iter=200, tolerance_grad=1e-9, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(x @ weight, first) + PENALTY / (2 * len(x)) * weight.square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return weight.detach()
