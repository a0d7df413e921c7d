"""A timm ViT's attention, for some of its tokens, by the operations that are fastest where it runs.

The weights and their meaning are timm's; a kind of attention that is not known here is asked itself.
"""

from typing import Any

import torch
from timm.models.vision_transformer import Attention
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from continual.backbones.factored import Factored

ALL = slice(None)


def attend(module: Any, x: Tensor, read: slice = ALL, rope: Any = None, weight: Tensor | None = None) -> Tensor:
    """Return what a block's attention says of the tokens `read` (B, n, D), which look at all of `x` (B, N, D).

    `weight` (K, D), or (B, K, D) for each image, stands for that of the module's queries, keys and values.
    """
    slow = _slow(x)
    plain = type(module) is Attention and type(module.qkv) in (nn.Linear, Factored)
    known = plain and getattr(module, "gate", None) is None
    if weight is not None and not known:
        return _under(module, x, rope, weight)[:, read]
    # What is exported keeps its layers whole, which shows what can be written in 8 bits.
    if weight is None and (not known or torch.onnx.is_in_onnx_export() or (read == ALL and not slow)):
        return (module(x) if rope is None else module(x, rope=rope))[:, read]
    width = module.num_heads * module.head_dim
    layer, own = module.qkv, weight
    if own is None and type(layer) is Factored:
        # Queries, keys and values are then those of fewer numbers for every token.
        x, layer = layer.down(x), layer.up
    weight, bias = layer.weight if own is None else own, layer.bias

    def heads(tokens: Tensor, rows: slice) -> tuple[Tensor, ...]:
        projected = _linear(tokens, weight[..., rows, :], None if bias is None else bias[rows])
        return projected.unflatten(-1, (-1, module.num_heads, module.head_dim)).permute(2, 0, 3, 1, 4).unbind(0)

    if own is not None and read == ALL:
        q, k, v = heads(x, ALL)
        products = _in_parts if slow else functional.scaled_dot_product_attention
        return _joined(module, products(module.q_norm(q), module.k_norm(k), v))
    q = module.q_norm(heads(x[:, read], slice(width))[0])
    if weight.ndim == 2 and _few(module, q, x):
        found = _without_keys(q, x, weight[width:], None if bias is None else bias[2 * width :])
    else:
        k, v = heads(x, slice(width, None))
        products = _in_parts if slow else functional.scaled_dot_product_attention
        found = products(q, module.k_norm(k), v)
    return _joined(module, found)


def _joined(module: Any, found: Tensor) -> Tensor:
    """Return the attention's output (B, n, D), of what its heads found (B, H, n, D / H)."""
    found = found.transpose(1, 2).flatten(2)
    if hasattr(module, "norm"):
        found = module.norm(found)
    return module.proj(found)


def _linear(tokens: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Apply a weight (K, D) of all images, or one for each (B, K, D), to tokens (B, n, D)."""
    if weight.ndim == 2:
        return functional.linear(tokens, weight, bias)
    found = tokens @ weight.mT
    return found if bias is None else found + bias


def _under(module: Any, x: Tensor, rope: Any, weight: Tensor) -> Tensor:
    """Return what a module of any kind makes of tokens (B, N, D), under another `qkv.weight`."""
    given = {} if rope is None else {"rope": rope}
    if weight.ndim == 2:
        return functional_call(module, {"qkv.weight": weight}, (x,), given)
    alone = zip(x.split(1), weight, strict=True)
    return torch.cat([functional_call(module, {"qkv.weight": own}, (each,), given) for each, own in alone])


def _few(module: Any, q: Tensor, x: Tensor) -> bool:
    """Say whether so few tokens (B, H, n, D / H) ask that no keys and values of all (B, N, D) are worth making.

    Not in half precision, in which the scores would be rounded.
    """
    tokens, width = x.shape[1:]
    plain = isinstance(module.k_norm, nn.Identity) and q.dtype == x.dtype and x.dtype in (torch.float32, torch.float64)
    return plain and q.shape[2] * (width + q.shape[1] * tokens) < tokens * width


def _without_keys(q: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Attend with queries (B, H, n, D / H) to tokens x (B, N, D) by their keys' and values' weights (2 D, D).

    A query's product with a key is x's with the query taken back through the keys' weights; what a key's bias adds is
    the same for all. The values' weights are applied to the mean of x that is looked at.
    """
    keys, values = weight.unflatten(0, (2, q.shape[1], -1)).unbind(0)
    taken_back = torch.einsum("bhnd,hdw->bhnw", q * q.shape[-1] ** -0.5, keys)
    looked_at = (taken_back.flatten(1, 2) @ x.mT).softmax(-1) @ x
    found = torch.einsum("bhnw,hdw->bhnd", looked_at.unflatten(1, q.shape[1:3]), values)
    return found if bias is None else found + bias.unflatten(0, (q.shape[1], 1, -1))


def _in_parts(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (q * q.shape[-1] ** -0.5 @ k.mT).softmax(-1) @ v


def _slow(x: Tensor) -> bool:
    """Say whether the fused operation is slower than its parts: going back in bfloat16 on a CPU, three to five times.

    Its parts round the scores to bfloat16, so that they are for training alone.
    """
    if not torch.is_grad_enabled() or x.device.type != "cpu":
        return False
    return x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
