"""All views, which count alike (Basu et al., AAAI 2023, arXiv 2210.06475); see `equivariant.Equitune`."""

from continual.symmetry.base import Symmetry


class Equitune(Symmetry):
    """φ(x) = mean_g φ(g·x)."""

    name = "equitune"
