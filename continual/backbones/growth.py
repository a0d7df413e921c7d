"""How the weights of a wider and deeper ViT follow from those of another: Mango's ring of four cores (NeurIPS 2023).

Every matrix of a block is cut into slices of D x D; with an MLP h times as wide as the tokens these are B = 4 + 2 h:
queries, keys, values, output, h of the MLP's first layer and h of its second. All slices of all L blocks are one tensor
M (B, I, O, L), I being what a slice reads and O what it writes. The larger network's is

    M'[b', i', o', l'] = sum over b, i, o, l and the ring's indices of M[b, i, o, l] S_B S_O S_L S_I

with S_B (r, B, B, r), S_O (r, O, O', r), S_L (r, L, L', r) and S_I (r, I, I', r), joined in a ring. Mango says nothing
of what is no matrix of a block; here biases, norms and embeddings are mapped by S_O, and over blocks by S_L, each with
its ends joined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from timm.layers import Mlp
from timm.models.vision_transformer import Attention, Block, VisionTransformer
from torch import Tensor, nn

from continual.errors import BackboneError

#: what a ViT has beside its blocks, written by S_O on its last axis; its patch embedding is written on its first
EMBEDDINGS = frozenset({"cls_token", "reg_token", "pos_embed"})
#: norms beside the blocks
NORMS = ("norm_pre.", "norm.", "fc_norm.")


@dataclass(frozen=True)
class Cores:
    """The four cores of the ring, (r, from, to, r) each."""

    slices: Tensor  #: S_B
    writing: Tensor  #: S_O
    blocks: Tensor  #: S_L
    reading: Tensor  #: S_I

    @property
    def tensors(self) -> list[Tensor]:
        """All four, in the order of the ring."""
        return [getattr(self, field.name) for field in fields(self)]

    def map_slices(self, m: Tensor) -> Tensor:
        """Return M' (B, I', O', L') of M (B, I, O, L)."""
        # One core after the other: what is between has at most r^2 times as many numbers as M'.
        found = torch.einsum("biol,pbcq->pqciol", m, self.slices)
        found = torch.einsum("pqciol,qons->pscinl", found, self.writing)
        found = torch.einsum("pscinl,slkt->ptcink", found, self.blocks)
        return torch.einsum("ptcink,tijp->cjnk", found, self.reading)

    def map_vectors(self, v: Tensor) -> Tensor:
        """Return vectors (L', O') of the blocks from those (L, O)."""
        return self.over_blocks(v) @ _joined(self.writing)

    def over_blocks(self, v: Tensor) -> Tensor:
        """Return (L', ...) of (L, ...): what is of heads has the same width in both."""
        return torch.einsum("l...,lk->k...", v, _joined(self.blocks))

    def map_last(self, v: Tensor) -> Tensor:
        """Return (..., O') of (..., O)."""
        return v @ _joined(self.writing)


def _joined(core: Tensor) -> Tensor:
    return torch.einsum("pabp->ab", core)


def starting(source: Sequence[int], blocks: Sequence[int], width: int, depth: int, hidden: int) -> Cores:
    """Return cores of rank 1 that copy: number o' of a token is number `source[o']`, block l' is block `blocks[l']`.

    `width` D, `depth` L and `hidden`, the width of the MLPs, are those of the smaller network.

    What reads a number with c copies takes 1 / c of each, so that a copied width is the same function. With a width and
    depth that stay, they are identities.
    """
    one = torch.eye(width)[:, list(source)]
    shares = one / one.sum(1, keepdim=True)
    parts = (torch.eye(4 + 2 * hidden // width), one, torch.eye(depth)[:, list(blocks)], shares)
    return Cores(*(part[None, :, :, None] for part in parts))


def with_shares(cores: Cores, shares: Tensor) -> Cores:
    """Return cores whose readers take other shares (I, I') of copies."""
    return replace(cores, reading=shares[None, :, :, None])


def of_rank(cores: Cores, rank: int, noise: float, generator: torch.Generator) -> Cores:
    """Return cores of a higher rank that do the same, except for noise of that share of their deviation."""

    def wide(core: Tensor) -> Tensor:
        draw = torch.randn(rank, *core.shape[1:3], rank, generator=generator)
        draw *= noise * core.std()
        draw[:1, :, :, :1] += core
        return draw

    return Cores(*(wide(core) for core in cores.tensors))


def check_growable(network: Any) -> None:
    """Raise BackboneError for a network whose weights are not those that the operator knows."""
    plain = (
        isinstance(network, VisionTransformer)
        and all(
            type(block) is Block
            and type(block.attn) is Attention
            and type(block.mlp) is Mlp
            and type(block.attn.qkv) is nn.Linear
            and block.attn.attn_dim == network.embed_dim
            and block.mlp.fc1.out_features % network.embed_dim == 0
            for block in network.blocks
        )
        and all(_known(name) for name in network.state_dict())
    )
    if not plain:
        raise BackboneError(
            f"this {type(network).__name__} cannot be grown: use a plain ViT of timm's (vit_*, deit*, *_dinov2) "
            "that is not compressed; or take a larger pretrained one, and port to it"
        )


def _known(name: str) -> bool:
    inside = name.startswith("blocks.") and name.split(".", 2)[2].startswith(
        ("norm1.", "norm2.", "ls1.", "ls2.", "mlp.fc", "attn.qkv.", "attn.proj.", "attn.q_norm.", "attn.k_norm.")
    )
    return inside or name in EMBEDDINGS or name.startswith(("patch_embed.proj.", *NORMS))


def mapped(state: Mapping[str, Tensor], cores: Cores) -> dict[str, Tensor]:
    """Return the state of the larger network from that of a ViT that `check_growable` lets pass."""
    depth, width = cores.blocks.shape[1], cores.writing.shape[1]
    found: dict[str, Tensor] = {}
    for name, value in state.items():
        if name == "patch_embed.proj.weight":
            found[name] = cores.map_last(value.movedim(0, -1)).movedim(-1, 0)
        elif not name.startswith("blocks."):
            found[name] = cores.map_last(value)
    each = {name.split(".", 2)[2]: 0 for name in state if name.startswith("blocks.")}
    stacked = {name: torch.stack([state[f"blocks.{block}.{name}"] for block in range(depth)]) for name in each}
    blocks = _matrices(stacked, cores, width) | {
        name: _vectors(name, value, cores, width) for name, value in stacked.items() if value.ndim == 2
    }
    for name, values in blocks.items():
        found |= {f"blocks.{block}.{name}": value for block, value in enumerate(values)}
    return found


def _matrices(stacked: Mapping[str, Tensor], cores: Cores, width: int) -> dict[str, Tensor]:
    """Return the four matrices of all blocks, (L', K', D') each, from those (L, K, D)."""
    # Every slice as (L, I, O): what is cut of the MLP's second layer are its inputs.
    cut = {name: stacked[f"{name}.weight"].mT for name in ("attn.qkv", "attn.proj", "mlp.fc1", "mlp.fc2")}
    slices = {name: torch.stack(value.split(width, 1 if name == "mlp.fc2" else 2), 1) for name, value in cut.items()}
    m = torch.cat([*slices.values()], 1).permute(1, 2, 3, 0)
    made = cores.map_slices(m).permute(3, 0, 1, 2)
    parts = made.split([value.shape[1] for value in slices.values()], 1)
    joined = {
        name: torch.cat([*part.unbind(1)], 1 if name == "mlp.fc2" else 2)
        for name, part in zip(slices, parts, strict=True)
    }
    return {f"{name}.weight": value.mT.contiguous() for name, value in joined.items()}


def _vectors(name: str, value: Tensor, cores: Cores, width: int) -> Tensor:
    """Return biases, norms and scales of all blocks (L', K') from those (L, K)."""
    if name.startswith(("attn.q_norm", "attn.k_norm")):
        return cores.over_blocks(value)
    return torch.cat([cores.map_vectors(part) for part in value.split(width, 1)], 1)
