"""All views for a few blocks, and the best of them to the end; see `equivariant.PrunedOrbit`."""

from torch import Tensor

from continual.backbones.base import FrozenBackbone
from continual.symmetry.upright import Upright
from equivariant.ties import soft, top

#: After how many blocks or stages views are chosen: each costs |G| of its passes, and helps to recognise upright.
EARLY = 3


class PrunedOrbit(Upright):
    """φ(x) = Σ_g w_g φ(g·x), w a softmax over the `views` best of the score of what early blocks say of g·x."""

    name, chooses, looks_at_few = "pruned_orbit", True, True

    def describe(self, frozen: FrozenBackbone, views: Tensor) -> Tensor:
        """Return what early blocks say."""
        early = min(EARLY, frozen.depth)
        return frozen.block_tokens(views.flatten(0, 1), 1, until=early).unflatten(0, views.shape[:2])

    def weigh(self, described: Tensor) -> Tensor:
        """Return the softmax of the best scores; views that tie with the last of them count as well."""
        scores = self.score(described)
        return soft(scores, top(scores, self.looked, dim=1), dim=1)
