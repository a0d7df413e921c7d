"""The bottleneck adapter: AdaptFormer's, parallel to the MLP, as MOS has it (arXiv 2412.09441, section 3).

For the tokens `h` that enter a block's MLP half,

    out = h + MLP(norm2(h)) + s * up(dropout(relu(down(h))))

where `down` maps D to r and `up` maps r to D, both with a bias.
"""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from continual.adapters.base import AdapterKind, Shapes, affine


class Bottleneck(AdapterKind):
    """Two linear layers around a ReLU, one pair for every block.

    Weights are `down_weight` (L, r, D), `down_bias` (L, r), `up_weight` (L, D, r), `up_bias` (L, D). For ViT-B/16 and
    r = 16 they are 304,320 numbers.
    """

    name: ClassVar[str] = "bottleneck"
    token_readers: ClassVar[frozenset[str]] = frozenset({"down_weight"})

    bottleneck: int = Field(16, ge=1, description="r, the width of an adapter")
    adapter_scale: float = Field(0.1, description="s, the factor of an adapter's output")
    adapter_dropout: float = Field(0.1, ge=0, lt=1)

    @property
    def dropout(self) -> float:
        return self.adapter_dropout

    @property
    def hidden(self) -> int:
        return self.bottleneck

    def new(self, shapes: Shapes, generator: torch.Generator | None) -> dict[str, Tensor]:
        # Kaiming-uniform with a = sqrt(5) over a fan-in of D is the uniform law on +-1/sqrt(D).
        depth, width, bound = shapes.depth, shapes.width, 1 / math.sqrt(shapes.width)
        return {
            "down_weight": torch.empty(depth, self.bottleneck, width).uniform_(-bound, bound, generator=generator),
            "down_bias": torch.zeros(depth, self.bottleneck),
            "up_weight": torch.zeros(depth, width, self.bottleneck),
            "up_bias": torch.zeros(depth, width),
        }

    def block(self, weights: Mapping[str, Tensor], h: Tensor, keep: Tensor | None = None) -> Tensor:
        z = torch.relu(affine(h, weights["down_weight"], weights["down_bias"]))
        if keep is not None:
            z = z * keep / (1 - self.adapter_dropout)
        # z is D / r times smaller than what it becomes
        return affine(self.adapter_scale * z, weights["up_weight"], self.adapter_scale * weights["up_bias"])
