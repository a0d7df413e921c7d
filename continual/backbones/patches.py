"""What a ViT says of the patches of an image, and how much its class token attends to each."""

from __future__ import annotations

from typing import Any

from timm.models.vision_transformer import Attention, Block
from torch import Tensor

from continual.backbones.base import FrozenBackbone
from continual.backbones.vit import FrozenViT
from continual.errors import BackboneError


def check_attends(frozen: FrozenBackbone) -> FrozenViT:
    """Return a ViT whose class token's attention can be read; raises BackboneError for other networks."""
    network: Any = frozen.network
    if isinstance(frozen, FrozenViT) and getattr(network, "cls_token", None) is not None and frozen.depth > 1:
        last = network.blocks[-1]
        if type(last) is Block and type(last.attn) is Attention:
            return frozen
    raise BackboneError(
        f"patterns are read from the attention of a ViT's class token, which a {type(network).__name__} like this does "
        "not have: select by image features (--by image), or take a ViT such as a vit_*_dinov2"
    )


def attended_patches(frozen: FrozenViT, images: Tensor) -> tuple[Tensor, Tensor]:
    """Return patch tokens (B, N, D) of the last block but one, and the last block's attention to them (B, N).

    The attention is the class token's, the mean over heads, and sums to 1 over the patches.
    """
    network, stem = frozen.network, frozen.stem(images)
    tokens = stem.h
    for index in range(frozen.depth - 1):
        h = frozen._attend(index, tokens, stem.rope) if index else stem.h
        tokens = stem.first if index == 0 and stem.first is not None else frozen._mlp(index, h)
    block, place = network.blocks[-1], network.num_prefix_tokens
    attention = block.attn
    x = block.norm1(tokens)
    q, k, _ = attention.qkv(x).unflatten(-1, (3, attention.num_heads, -1)).permute(2, 0, 3, 1, 4).unbind(0)
    asked = attention.q_norm(q[:, :, :1]) * attention.head_dim**-0.5
    looked = (asked @ attention.k_norm(k).mT).softmax(-1)[:, :, 0, place:].mean(1).float()
    return tokens[:, place:].float(), looked / looked.sum(-1, keepdim=True)
