"""Compacter: a bottleneck of sums of Kronecker products (Karimi Mahabadi et al., NeurIPS 2021, arXiv 2106.04647).

For the tokens `h` that enter a block's MLP half,

    out = h + MLP(norm2(h)) + s * up(gelu(down(h))),    W = sum_i A_i kron (s_i u_i)  of both

with the n matrices A_i (n, n) shared by both and by all blocks. It stands where the bottleneck stands.
"""

import math
from collections.abc import Mapping
from typing import ClassVar

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn.functional import gelu

from continual.adapters.base import AdapterKind, Shapes, affine, divisors
from continual.errors import InputError


class Compacter(AdapterKind):
    """Two layers around a GELU, each of (D + r) k numbers and its bias, instead of D r.

    Weights are `mix` (n, n, n), which are the A_i; of both layers, from `in` to `out` numbers, `s` (L, n, in/n, k), `u`
    (L, n, k, out/n) and a bias. A layer's rank is at most n^2 k. For ViT-B/16 and the defaults they are 28,576
    numbers. Later adapters of a method that merges keep all of the first but `up_u` and `up_bias`.
    """

    name: ClassVar[str] = "compacter"
    whole: ClassVar[frozenset[str]] = frozenset({"mix"})

    width: int = Field(24, ge=1, description="r, the width of an adapter")
    n: int = Field(4, ge=1, description="matrices A_i; divides the ViT's width and the adapter's")
    rank: int = Field(1, ge=1, description="k, the rank of s_i u_i")
    adapter_scale: float = Field(0.1, description="s, the factor of an adapter's output")
    share_reading: bool = Field(True, description="where adapters are merged, later ones train the last factor alone")

    @model_validator(mode="after")
    def _divides(self) -> "Compacter":
        if self.width % self.n:
            raise ValueError(f"n = {self.n} does not divide the width {self.width}: take one of {divisors(self.width)}")
        return self

    @property
    def reading(self) -> frozenset[str]:
        kept = {"mix", "down_s", "down_u", "down_bias", "up_s"}
        return frozenset(kept) if self.share_reading else frozenset()

    def check(self, shapes: Shapes) -> None:
        if shapes.width % self.n:
            common = divisors(math.gcd(shapes.width, self.width))
            raise InputError(
                f"compacter: n = {self.n} does not divide the ViT's width {shapes.width}; with width = {self.width}, "
                f"adapter_args={{'n': ...}} may be {common}"
            )

    def new(self, shapes: Shapes, generator: torch.Generator | None) -> dict[str, Tensor]:
        self.check(shapes)
        depth, wide, narrow, n, k = shapes.depth, shapes.width, self.width, self.n, self.rank

        def drawn(rows: int, columns: int) -> Tensor:
            bound = math.sqrt(2) * math.sqrt(6 / (rows + columns))  # glorot's, with the gain of the published code
            return torch.empty(depth, n, rows, columns).uniform_(-bound, bound, generator=generator)

        return {
            "mix": 0.1 * torch.randn(n, n, n, generator=generator),
            "down_s": drawn(wide // n, k),
            "down_u": drawn(k, narrow // n),
            "down_bias": torch.zeros(depth, narrow),
            "up_s": drawn(narrow // n, k),
            "up_u": torch.zeros(depth, n, k, wide // n),
            "up_bias": torch.zeros(depth, wide),
        }

    def block(self, weights: Mapping[str, Tensor], h: Tensor, keep: Tensor | None = None) -> Tensor:
        down = kronecker_sum(weights["mix"], weights["down_s"], weights["down_u"])
        up = kronecker_sum(weights["mix"], weights["up_s"], weights["up_u"])
        z = gelu(affine(h, down, weights["down_bias"]))
        return affine(self.adapter_scale * z, up, self.adapter_scale * weights["up_bias"])


def kronecker_sum(mix: Tensor, s: Tensor, u: Tensor) -> Tensor:
    """Return the transpose (..., out, in) of `sum_i A_i kron (s_i u_i)`.

    A is (..., n, n, n), s (..., n, in/n, k) and u (..., n, k, out/n). The sum is small beside the tokens it is applied
    to, so that it is made once a batch.
    """
    # Of three operands opt_einsum, where it is installed, chooses an order by sizes, which fixes the batch of a graph.
    return torch.einsum("...iab,...ipq->...bqap", mix, s @ u).flatten(-4, -3).flatten(-2, -1)
