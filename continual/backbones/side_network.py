"""A frozen ViT, and a ladder that reads it, as two modules: what is trained elsewhere than in a learner.

In `equivariant.tune` the first, which nothing changes, is run once over the views of every image; epochs then train the
second alone:

    reader, ladder = side_network(backbone)
    model = nn.Sequential(LambdaEquitune(nn.Sequential(reader, ladder), "D4", ...), head)
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from continual.adapters.bank import TrainableAdapter
from continual.adapters.base import AdapterKind, make, read_blocks, standardised
from continual.backbones.base import SharedStem
from continual.backbones.loading import Backbone
from continual.backbones.vit import FrozenViT
from continual.errors import InputError
from continual.seeding import generator


def packed(stem: SharedStem) -> Tensor:
    """Return a stem whose ViT was run (`SharedStem.passed`) as (B, R, D) in half precision, features in full.

    Tokens are standardised, as a ladder reads them, so that none is too large for it.
    """
    tokens, features = _apart(stem)
    return torch.cat([tokens, features.view(torch.float16).unflatten(-1, (2, -1)).flatten(1, 2)], 1)


def unpacked(rows: Tensor, reads: int) -> SharedStem:
    """Return the stem of which `packed` gave the rows (B, R, D), with tokens after so many blocks."""
    return _stem(rows[:, :-2], rows[:, -2:].flatten(1).contiguous().view(torch.float32).unsqueeze(1), reads)


def _apart(stem: SharedStem) -> tuple[Tensor, Tensor]:
    """Return all tokens (B, R - 2, D) in half precision, and features (B, 1, D)."""
    *tokens, features = stem.passed
    return torch.cat([level.float().half() for level in tokens], 1), features.float()


def _stem(tokens: Tensor, features: Tensor, reads: int) -> SharedStem:
    levels = standardised(tokens.float()).chunk(reads + 1, 1)  # which rounding left nearly so
    return SharedStem(levels[0], None, passed=(*levels, features))


class TokenReader(nn.Module):
    """Images (B, 3, H, W) to all that a ladder reads of them, (B, R, D) in half precision.

    The last two rows are the features, rounded, and what rounding left: numbers that nothing takes for NaN, as it may
    the bits of `packed`.
    """

    def __init__(self, frozen: FrozenViT, reads: int) -> None:
        super().__init__()
        self.frozen, self.reads = frozen, reads

    def forward(self, images: Tensor) -> Tensor:
        """Return the rows, without gradients."""
        with torch.no_grad():
            tokens, features = _apart(self.frozen.stem(images, reads=self.reads))
            rounded = features.half()
            return torch.cat([tokens, rounded, (features - rounded.float()).half()], 1)


class SideNetwork(nn.Module):
    """What a `TokenReader` gives to features (B, D): the ViT's own, plus what the adapter makes of its tokens."""

    def __init__(self, frozen: FrozenViT, kind: AdapterKind, adapter: TrainableAdapter) -> None:
        super().__init__()
        self.adapter, self.reads = adapter, len(read_blocks(frozen.depth, kind.reads))
        self._features = frozen.features  # not a part: it is frozen, and the reader's

    def forward(self, rows: Tensor) -> Tensor:
        """Return the features."""
        features = rows[:, -2:].float().sum(1, keepdim=True)
        return self._features(_stem(rows[:, :-2], features, self.reads), self.adapter.bind())


def side_network(
    backbone: Backbone, adapter: str = "ladder", seed: int = 1993, **settings: Any
) -> tuple[TokenReader, SideNetwork]:
    """Return the frozen reader of a ViT and a new adapter that reads it, with settings of its kind.

    The adapter adds nothing yet. Raises InputError for a kind that changes the ViT, and BackboneError for a network
    that is none.
    """
    backbone.frozen.check_has_blocks("a side network")
    assert isinstance(backbone.frozen, FrozenViT)
    kind = make(adapter, settings, {})
    if not kind.reads:
        raise InputError(f"{adapter} changes the ViT, so nothing of it can be run beforehand: take adapter='ladder'")
    new = kind.new(backbone.frozen.shapes, generator(seed, "adapters"))
    return TokenReader(backbone.frozen, kind.reads), SideNetwork(backbone.frozen, kind, TrainableAdapter(kind, new))
