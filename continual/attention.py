"""A timm ViT's attention, for some of its tokens, by the operations that are fastest where it runs.

The weights and their meaning are timm's; a kind of attention that is not known here is asked itself.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.models.vision_transformer import Attention
from torch import Tensor
from torch.nn import functional

ALL = slice(None)


def attend(module: Any, x: Tensor, read: slice = ALL, rope: Any = None) -> Tensor:
    """Return what a block's attention says of the tokens `read` (B, n, D), which look at all of `x` (B, N, D)."""
    slow = _slow(x)
    known = type(module) is Attention and getattr(module, "gate", None) is None
    # What is exported keeps its layers whole, by which it is told what can be written in 8 bits.
    if not known or torch.onnx.is_in_onnx_export() or (read == ALL and not slow):
        return (module(x) if rope is None else module(x, rope=rope))[:, read]
    width = module.num_heads * module.head_dim
    weight, bias = module.qkv.weight, module.qkv.bias

    def heads(tokens: Tensor, rows: slice) -> tuple[Tensor, ...]:
        projected = functional.linear(tokens, weight[rows], None if bias is None else bias[rows])
        return projected.unflatten(-1, (-1, module.num_heads, module.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)

    (q,), (k, v) = heads(x[:, read], slice(width)), heads(x, slice(width, None))
    q, k = module.q_norm(q), module.k_norm(k)
    products = _in_parts if slow else functional.scaled_dot_product_attention
    found = products(q, k, v).transpose(1, 2).flatten(2)
    if hasattr(module, "norm"):
        found = module.norm(found)
    return module.proj(found)


def _in_parts(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1) @ v


def _slow(x: Tensor) -> bool:
    """Say whether the fused operation is slower than its parts: going back in bfloat16 on a CPU, three to five times.

    Its parts round the scores to bfloat16, so that they are for training alone.
    """
    if not torch.is_grad_enabled() or x.device.type != "cpu":
        return False
    return x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
