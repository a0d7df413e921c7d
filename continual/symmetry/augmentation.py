"""The image as it is: trained on views, with no promise about the answers. For comparison."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from continual.symmetry.base import Symmetry

if TYPE_CHECKING:
    from continual.backbones.base import Frozen


class Augmentation(Symmetry):
    """φ(x), which is not invariant."""

    name, looked, invariant = "augmentation", 1, False

    def look(self, trunk: Frozen, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the images as they are."""
        return images, None
