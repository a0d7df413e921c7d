"""What kinds of adapters that change an attention's weight have in common: two low-rank factors for every block.

No module of the ViT is wrapped: the changed weight is made once a batch and stands for the block's own, wherever that
is read. The first block keeps its own, so that all adapters share its attention.
"""

import math
from typing import ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from continual.adapters.base import AdapterKind, Shapes
from continual.errors import InputError


class LowRank(AdapterKind):
    """Changes the weight W (K, D) of queries, keys and values, in every block but the first, by a product B A.

    Weights are `reading` (L - 1, r, D), which is A, and `writing` (L - 1, K, r), B; for `targets`, their rows alone.
    Later adapters of a method that merges keep the first one's A: what they change is then linear in B.
    """

    first_block: ClassVar[int] = 1

    rank: int = Field(8, ge=1, description="r, the rank of the product")
    scale: float = Field(1.0, description="s, the factor of the product")
    targets: Literal["qkv", "qv", "qk", "kv", "q", "k", "v"] = Field(
        "qkv", description="whose weights are changed: queries', keys' and values', or some of them"
    )
    share_reading: bool = Field(True, description="where adapters are merged, later ones train the last factor alone")

    @property
    def reading(self) -> frozenset[str]:
        return frozenset({"reading"}) if self.share_reading else frozenset()

    @property
    def places(self) -> str:
        return self.targets

    def check(self, shapes: Shapes) -> None:
        if not shapes.attention:
            raise InputError(
                f"{self.name} changes the one weight of a block's queries, keys and values, attn.qkv, and this ViT has "
                "none: take adapter='bottleneck'"
            )
        if shapes.attention % 3:
            raise InputError(
                f"{self.name} takes attn.qkv for as many rows of queries as of keys and of values, and this ViT's "
                f"{shapes.attention} rows are not: take adapter='bottleneck'"
            )
        if shapes.depth < 2:
            raise InputError(f"{self.name} leaves the first block as it is, and this ViT has no other")

    def new(self, shapes: Shapes, generator: torch.Generator | None) -> dict[str, Tensor]:
        self.check(shapes)
        blocks, bound = shapes.depth - 1, 1 / math.sqrt(shapes.width)
        return {
            "reading": torch.empty(blocks, self.rank, shapes.width).uniform_(-bound, bound, generator=generator),
            "writing": torch.zeros(blocks, self.rows(shapes), self.rank),
        }

    def rows(self, shapes: Shapes) -> int:
        """Return how many rows of W are changed."""
        return shapes.attention // 3 * len(self.targets)

    def change(self, product: Tensor) -> Tensor:
        """Return `scale * product` (..., K, D) for the product of two factors, whose rows are those of the targets."""
        if self.targets != "qkv":
            parts = dict(zip(self.targets, product.chunk(len(self.targets), -2), strict=True))
            product = torch.cat([parts.get(name, torch.zeros_like(parts[self.targets[0]])) for name in "qkv"], -2)
        return self.scale * product
