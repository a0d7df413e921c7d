"""A frozen ViT that remembers what it said of an image, on disk too: studies of closed forms then cost no passes.

Learners read it as they read any backbone, so that their figures are those of the same run without it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from continual.adapters.base import Adapters
from continual.backbones.base import SharedStem
from continual.backbones.loading import Backbone, load_backbone
from continual.backbones.vit import FrozenViT

#: how many last blocks are remembered: as many as strata reads
BLOCKS = 4


class RememberedViT(FrozenViT):
    """A ViT that runs an image once; what it says of it is then looked up, by the bytes of the prepared image.

    The final features are made of the last block's class token, as the ViT itself makes them, except for the last bits.
    """

    def __init__(self, vit: FrozenViT, file: Path | None = None) -> None:
        nn.Module.__init__(self)
        self.__dict__.update(vit.__dict__)
        self.counter, self.file = nn.Identity(), file
        self.rows: dict[bytes, int] = {}
        self.tokens = torch.empty(0, 2 * BLOCKS * self.width)
        if file is not None and file.is_file():
            kept = load_file(file)
            self.tokens = kept["tokens"]
            self.rows = {bytes(digest): row for row, digest in enumerate(kept["digests"].numpy())}

    @property
    def stages(self) -> list[nn.Module]:
        return [self.counter]

    def features(
        self,
        images: Tensor | SharedStem,
        adapters: Adapters | None = None,
        *,
        weights: Mapping[str, Tensor] | None = None,
        checkpoint: bool = False,
        compiled: str | None = None,
    ) -> Tensor:
        """Return the final features (B, D), under the ViT's own weights alone."""
        assert isinstance(images, Tensor)
        assert adapters is None
        assert weights is None
        return self.final(self._all(images))

    def final(self, tokens: Tensor) -> Tensor:
        """Return the final features (..., D) of what the last blocks say (..., 2 D BLOCKS)."""
        norm: Any = self.network.norm
        return tokens[..., -2 * self.width : -self.width] * norm.weight + norm.bias

    def block_tokens(self, images: Tensor, blocks: int, *, patches: bool = True, until: int | None = None) -> Tensor:
        """Return what the last blocks say (B, 2 D blocks); what those up to an earlier one say is not remembered."""
        assert blocks <= BLOCKS
        assert patches
        if until is not None:
            return super().block_tokens(images, blocks, until=until)
        return self._all(images)[:, -2 * blocks * self.width :]

    def _all(self, images: Tensor) -> Tensor:
        images = self.counter(images)
        digests = [hashlib.blake2b(image.numpy().tobytes(), digest_size=16).digest() for image in images]
        if missing := {digest: place for place, digest in enumerate(digests) if digest not in self.rows}:
            found = super().block_tokens(images[list(missing.values())], BLOCKS)
            self.rows |= {digest: len(self.tokens) + number for number, digest in enumerate(missing)}
            self.tokens = torch.cat([self.tokens, found])
        return self.tokens[[self.rows[digest] for digest in digests]]

    def keep(self) -> None:
        """Write what is remembered."""
        if self.file is not None:
            digests = torch.frombuffer(bytearray(b"".join(self.rows)), dtype=torch.uint8).reshape(-1, 16)
            self.file.parent.mkdir(parents=True, exist_ok=True)
            save_file({"digests": digests, "tokens": self.tokens}, self.file)


def remembering(backbone: Backbone, file: Path | None = None) -> Backbone:
    """Return a backbone that remembers, and what a file has kept."""
    assert isinstance(backbone.frozen, FrozenViT)
    return replace(backbone, frozen=RememberedViT(backbone.frozen, file))


def studied(asked: Any, remembers: bool | None = None) -> Backbone:
    """Return the backbone of a study's arguments; it remembers, unless adapters are trained on it."""
    made = load_backbone(weights=asked.weights, img_size=asked.pixels, crop_scale=(0.4, 1.0))
    return remembering(made, asked.remember) if (not asked.adapters if remembers is None else remembers) else made
