"""The first few views in an order that content decides (Puny et al., Frame Averaging, ICLR 2022, arXiv 2110.03336)."""

from continual.symmetry.base import Symmetry


class Frame(Symmetry):
    """φ(x) = mean of φ(g·x) over the first `views` elements of the orbit: no score is needed that finds an upright."""

    name, looks_at_few = "frame", True
