"""What a learner reads of a backbone whose weights never change, whatever its kind."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from continual.adapters.base import Adapters, Shapes
from continual.errors import BackboneError

#: what TResNet's first convolution reads: blocks of 4 x 4 pixels, folded into the channels of RGB
FOLDED = 48


@dataclass(frozen=True)
class SharedStem:
    """What all adapters have in common for a batch: all that does not depend on the first adapter."""

    h: Tensor  #: (B, m N, D), the tokens after the first block's attention
    rope: Any  #: rotary positions, the same for all images, or None
    prompts: int = 0  #: P, how many of the tokens are prompts; they follow the ViT's own stem tokens
    first: Tensor | None = None  #: (B, m N, D), the first block's output without adapter, if it was computed already
    views: int = 1  #: m, how many views of each image there are, one after the other
    weights: Tensor | None = None  #: (B, m), how they count, where that is known already
    #: where adapters act after the ViT alone: tokens (B, m N, D) that they read, standardised, h's among them, and its
    #: features (B, m, D)
    passed: tuple[Tensor, ...] = ()

    def __getitem__(self, rows: Tensor) -> SharedStem:
        """Return the stem of some of the images."""
        return replace(self._each(lambda t: t[rows]), weights=None if self.weights is None else self.weights[rows])

    def only(self, views: int) -> SharedStem:
        """Return the stem of each image's first `views` views, which count alike."""
        few = self._each(lambda t: t[:, : views * (t.shape[1] // self.views)])
        return replace(few, views=views, weights=self.h.new_full((self.h.shape[0], views), 1 / views))

    def of_views(self, views: int, weights: Tensor | None) -> SharedStem:
        """Return the stem of images of which these are `views` views each."""
        return replace(self._each(lambda t: beside(t, views)), views=views, weights=weights)

    def _each(self, change: Callable[[Tensor], Tensor]) -> SharedStem:
        first = None if self.first is None else change(self.first)
        return replace(self, h=change(self.h), first=first, passed=tuple(change(t) for t in self.passed))


class FrozenBackbone(nn.Module, ABC):
    """A timm network without its classifier, always in evaluation mode and without gradients of its own."""

    network: Any  #: the model, as timm made it
    width: int  #: D, the length of a feature
    depth: int  #: L, how many blocks or stages it has
    image_size: tuple[int, int]  #: of the images it is given, (H, W)
    has_blocks: ClassVar[bool] = False  #: whether it is a ViT, inside whose blocks adapters can stand

    @property
    def shapes(self) -> Shapes:
        """What a kind of adapter needs to know."""
        return Shapes(self.depth, self.width)

    def freeze(self) -> None:
        """Stop all gradients, and leave training mode for good."""
        self.requires_grad_(False)
        self.eval()

    @property
    def channels(self) -> int:
        """C, how many channels the images have that it is given."""
        first = (getattr(self.network, "pretrained_cfg", None) or {}).get("first_conv") or ""
        try:
            layer = self.network.get_submodule(first if isinstance(first, str) else first[0])
        except AttributeError:
            layer = None
        return layer.in_channels if isinstance(layer, nn.Conv2d) and layer.in_channels != FOLDED else 3

    def probe(self) -> Tensor:
        """Return an image (1, C, H, W), to compare with what the network itself makes of it."""
        shape = (1, self.channels, *self.image_size)
        return torch.linspace(-1, 1, math.prod(shape)).reshape(shape).to(next(self.parameters()))

    def under(self, weights: Mapping[str, Tensor], *given: Any) -> Any:
        """Return what the module makes of what is given, with other parameters of the network, by its own names."""
        return functional_call(self, {f"network.{name}": value for name, value in weights.items()}, given)

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
    def stages(self) -> list[nn.Module]:
        """Modules that a whole forward pass runs once each, all images of a batch at a time: by these it is counted."""

    @abstractmethod
    def stem(self, images: Tensor, prompts: Tensor | None = None, reads: int = 0) -> SharedStem:
        """Return what all adapters have in common for images (B, 3, H, W); see `FrozenViT.stem`.

        Raises BackboneError for a network that has no place for adapters.
        """

    @abstractmethod
    def features(
        self,
        images: Tensor | SharedStem,
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

    def token_parts(self, images: Tensor, blocks: int, *, patches: bool = True) -> list[TokenPart] | None:
        """Return parts whose means over their positions, side by side, are `block_tokens`; None if it cannot say."""
        return None


@dataclass(frozen=True)
class TokenPart:
    """Some of what `block_tokens` gives, before its positions are averaged; a part of an image has no `grid`."""

    values: Tensor  #: (B, N, K), of N positions, row by row
    grid: tuple[int, int] | None = None  #: rows and columns, N of them together; None: the part is of the whole image


def apart(tokens: Tensor, views: int) -> Tensor:
    """Return the tokens (B m, N, D) of views that are apart, from those (B, m N, D) that lie beside one another."""
    return tokens if views == 1 else tokens.unflatten(1, (views, -1)).flatten(0, 1)


def beside(tokens: Tensor, views: int) -> Tensor:
    """Undo `apart`."""
    return tokens if views == 1 else tokens.unflatten(0, (-1, views)).flatten(1, 2)
