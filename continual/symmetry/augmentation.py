"""The image as it is: trained on views, with no promise about the answers. For comparison."""

import torch
from torch import Tensor

from continual.backbones.base import FrozenBackbone
from continual.symmetry.base import Symmetry


class Augmentation(Symmetry):
    """φ(x), which is not invariant."""

    name, looked, invariant = "augmentation", 1, False

    def look(self, frozen: FrozenBackbone, images: Tensor) -> tuple[Tensor, Tensor | None]:
        """Return the images as they are."""
        return images, None

    def shares(self, noted: Tensor) -> Tensor:
        """Return 1 for the image as it is."""
        given = torch.arange(self.group.order, device=noted.device) == self.group.identity
        return given.expand(noted.shape[:2])
