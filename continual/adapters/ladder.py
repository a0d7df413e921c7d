"""LST, ladder side-tuning (Sung et al., NeurIPS 2022, arXiv 2206.06522): a small network beside a ViT that reads it.

With h_0 the tokens after the first block's attention, and h_i those after some of the blocks (`read_blocks`), each
brought to mean 0 and deviation 1,

    z_0 = W_0 h_0,    z_i = Block_i(g_i z_{i-1} + (1 - g_i) D_i h_i),    g_i = sigmoid(a_i / 0.1)
    features = the ViT's own + U pool(LN(z_k))

where a block is a ViT's, of width d = D / reduction. Nothing is added to the ViT's tokens: all ladders read the same
pass of it, and no gradient passes through it. U is zero at first, so that a new ladder adds nothing; the published one
adds to the last tokens through a gate of its own, and begins as a pruned copy of the backbone.
"""

import math
from collections.abc import Mapping, Sequence
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import gelu, layer_norm, scaled_dot_product_attention

from continual.adapters.base import AdapterKind, Pool, Shapes, affine, divisors, read_blocks
from continual.errors import InputError

TEMPERATURE = 0.1  #: of the gates


class Ladder(AdapterKind):
    """A side network of a few narrow blocks. For the defaults and a ViT of 11 blocks of width 384, 224,404 numbers.

    Weights are those of `start`, `up` and `norm`, and for each block i of `down`, `gate`, two norms, `qkv`, `proj`,
    `fc1` and `fc2`, as `qkv_weight_0`. In training, 2 (blocks + 1) N D bytes are kept for N tokens of a cached view.
    What a ladder adds is not linear in them: merged ladders are no mean of ladders.
    """

    name: ClassVar[str] = "ladder"

    reduction: int = Field(8, ge=1, description="how many times narrower than the ViT")
    blocks: int = Field(4, ge=1, description="of the ladder; all of the ViT's but one, if it has fewer")
    cached_views: int = Field(
        1, ge=0, description="views of a training image that are kept as tokens for all epochs; 0: fresh ones in each"
    )

    @property
    def views_kept(self) -> int:
        return self.cached_views

    @property
    def reads(self) -> int:
        return self.blocks

    def check(self, shapes: Shapes) -> None:
        if shapes.depth < 2:
            raise InputError("a ladder reads the blocks of a ViT before its last one, and this ViT has one alone")
        if shapes.width % self.reduction:
            raise InputError(
                f"ladder: reduction = {self.reduction} does not divide the ViT's width {shapes.width}; "
                f"adapter_args={{'reduction': ...}} may be {divisors(shapes.width)}"
            )

    def new(self, shapes: Shapes, generator: torch.Generator | None) -> dict[str, Tensor]:
        self.check(shapes)
        wide, narrow = shapes.width, shapes.width // self.reduction
        weights: dict[str, Tensor] = {}

        def layer(name: str, columns: int, rows: int) -> None:
            place, _, number = name.partition(" ")
            drawn = torch.randn(rows, columns, generator=generator) / math.sqrt(columns)
            weights[f"{place}_weight{number}"] = drawn
            weights[f"{place}_bias{number}"] = torch.zeros(rows)

        def norm(place: str, number: str = "") -> None:
            weights[f"{place}_weight{number}"] = torch.ones(narrow)
            weights[f"{place}_bias{number}"] = torch.zeros(narrow)

        layer("start", wide, narrow)
        for block in range(len(read_blocks(shapes.depth, self.blocks))):
            number = f"_{block}"
            weights[f"gate{number}"] = torch.zeros(1)
            layer(f"down {number}", wide, narrow)
            norm("norm1", number)
            layer(f"qkv {number}", narrow, 3 * narrow)
            layer(f"proj {number}", narrow, narrow)
            norm("norm2", number)
            layer(f"fc1 {number}", narrow, 4 * narrow)
            layer(f"fc2 {number}", 4 * narrow, narrow)
        norm("norm")
        return {**weights, "up_weight": torch.zeros(wide, narrow), "up_bias": torch.zeros(wide)}

    def after(self, weights: Mapping[str, Tensor], tokens: Sequence[Tensor], pool: Pool) -> Tensor:
        first, *levels = tokens

        def layer(name: str, x: Tensor, number: str = "") -> Tensor:
            return affine(x, weights[f"{name}_weight{number}"], weights[f"{name}_bias{number}"])

        def norm(name: str, x: Tensor, number: str = "") -> Tensor:
            weight, bias = (weights[f"{name}_{part}{number}"].unsqueeze(-2) for part in ("weight", "bias"))
            return layer_norm(x, x.shape[-1:]) * weight + bias

        z = layer("start", first)
        for block, level in enumerate(levels):
            number = f"_{block}"
            gate = torch.sigmoid(weights[f"gate{number}"] / TEMPERATURE).unsqueeze(-1)
            z = gate * z + (1 - gate) * layer("down", level, number)
            z = z + layer("proj", _attended(layer("qkv", norm("norm1", z, number), number)), number)
            z = z + layer("fc2", gelu(layer("fc1", norm("norm2", z, number), number)), number)
        return layer("up", pool(norm("norm", z)).unsqueeze(1)).squeeze(1)


def _attended(qkv: Tensor) -> Tensor:
    """Return what the tokens of `qkv` (B, N, 3 d) look at, (B, N, d), with heads of at least 8 numbers."""
    width = qkv.shape[-1] // 3
    heads = math.gcd(width, max(width // 8, 1))
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    return scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
