"""What a learner reads of a backbone whose weights never change, whatever its kind."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar, Self

from torch import Tensor, nn

from continual.errors import BackboneError

if TYPE_CHECKING:
    from continual.adapters.bottleneck import Adapters
    from continual.backbones.vit import Prefix


class Frozen(nn.Module, ABC):
    """A timm network without its classifier, for good in evaluation mode and without gradients of its own."""

    width: int  #: D, the length of a feature
    depth: int  #: L, how many blocks or stages it has
    image_size: tuple[int, int]  #: of the images it is given, (H, W)
    has_blocks: ClassVar[bool] = False  #: whether it is a ViT, inside whose blocks adapters can stand

    def freeze(self) -> None:
        """Stop all gradients, and leave training mode for good."""
        self.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: a frozen backbone has no dropout and moves no statistics."""
        return super().train(False)

    def check_has_blocks(self, user: str) -> None:
        """Raise BackboneError, on behalf of a method, for a network that is no ViT."""
        if not self.has_blocks:
            raise BackboneError(
                f"{user} works inside the blocks of a ViT, and {type(self.network).__name__} has none for it: take a "
                "method that reads frozen features alone, e.g. strata, ridge or simple_cil (`equimos methods` lists "
                "which run on any backbone), or a ViT, e.g. 'vit_base_patch16_224.augreg_in21k'"
            )

    @property
    @abstractmethod
    def network(self) -> nn.Module:
        """The model, as timm made it."""

    @property
    @abstractmethod
    def milestones(self) -> list[nn.Module]:
        """Modules that a whole forward pass runs once each, all images of a batch at a time: by these it is counted."""

    @abstractmethod
    def prefix(self, images: Tensor, prompts: Tensor | None = None) -> Prefix:
        """Return what all adapters have in common for images (B, 3, H, W); see `FrozenViT.prefix`.

        Raises BackboneError for a network that has no place for adapters.
        """

    @abstractmethod
    def features(
        self,
        images: Tensor | Prefix,
        adapters: Adapters | None = None,
        *,
        weights: Mapping[str, Tensor] | None = None,
        checkpoint: bool = False,
        compiled: str | None = None,
    ) -> Tensor:
        """Return the features (B, D) that timm gives a classifier, of images (B, 3, H, W), in float32 (or wider).

        With `weights`, they stand for the network's parameters of the same names, which stay as they are. All
        else is for adapters; see `FrozenViT.features`.
        """

    @abstractmethod
    def block_tokens(self, images: Tensor, blocks: int, *, patches: bool = True, until: int | None = None) -> Tensor:
        """Return what the last `blocks` blocks or stages say of images (B, 3, H, W), side by side (B, D'), in float32.

        All are read if there are fewer. With `until`, the network ends after so many of them.
        """
