"""The mean of adapters: the anchor of MOS (AAAI 2025, arXiv 2412.09441, section 3.1)."""

from torch import Tensor

from continual.merging.base import rule


@rule("mean")
def mean(stacks: Tensor, start: Tensor) -> Tensor:
    """Return the mean of adapters (T, P), whatever they began at."""
    return stacks.mean(0)
