"""All views, weighed by a score of their features (Basu et al., NeurIPS 2023, arXiv 2305.09900)."""

from torch import Tensor

from continual.symmetry.upright import Upright
from equivariant.ties import soft


class LambdaEquitune(Upright):
    """φ(x) = Σ_g λ(g·x) φ(g·x) / Σ_g λ(g·x), λ = exp of the score of how upright a view looks by its features."""

    name, reads_features = "lambda_equitune", True

    def weigh(self, described: Tensor) -> Tensor:
        """Return λ, normalised."""
        return soft(self.score(described), dim=1)
