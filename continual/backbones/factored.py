"""A ViT whose linear layers are products of two factors, so that they hold fewer numbers."""

from __future__ import annotations

from collections.abc import Mapping

from timm.models import vision_transformer
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from continual.errors import BackboneError


class Factored(nn.Module):
    """A linear layer as two, `up(down(x))`, of rank r; what reads its `weight` reads their product (K, D)."""

    def __init__(self, layer: nn.Linear, rank: int) -> None:
        super().__init__()
        # No random numbers are drawn for weights that are replaced.
        where = {"device": layer.weight.device, "dtype": layer.weight.dtype}
        self.down = nn.utils.skip_init(nn.Linear, layer.in_features, rank, bias=False, **where)
        self.up = nn.utils.skip_init(nn.Linear, rank, layer.out_features, bias=layer.bias is not None, **where)

    @property
    def weight(self) -> Tensor:
        """The weight that both amount to (K, D)."""
        return self.up.weight @ self.down.weight

    @property
    def bias(self) -> Tensor | None:
        """The bias (K,), if there is one."""
        return self.up.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return what the layer makes of (..., D), (..., K)."""
        found: Tensor = self.up(self.down(x))
        return found


def is_factored(network: nn.Module) -> bool:
    """Tell whether any layer of a network is a product."""
    return any(isinstance(module, Factored) for module in network.modules())


def linear_layers(network: nn.Module) -> dict[str, nn.Linear]:
    """Return the linear layers inside a ViT's blocks, by name: those that can be factored.

    Raises BackboneError for networks of other kinds: their attention reads its weights itself, or there are no blocks.
    """
    plain = isinstance(network, vision_transformer.VisionTransformer) and all(
        type(getattr(block, "attn", None)) is Attention for block in network.blocks
    )
    if not plain:
        raise BackboneError(
            f"this {type(network).__name__} cannot be compressed: use a ViT of timm's VisionTransformer family (vit_*, "
            "deit*, *_dinov2), or export with --int8"
        )
    return {
        name: module
        for name, module in network.named_modules()
        if name.startswith("blocks.") and type(module) is nn.Linear
    }


def factor(network: nn.Module, ranks: Mapping[str, int]) -> None:
    """Put factors of these ranks in the place of a network's layers, with weights that mean nothing yet.

    Raises BackboneError for layers that it does not have, and for ranks above their own.
    """
    layers = linear_layers(network) if ranks else {}
    for name, rank in ranks.items():
        layer = layers.get(name)
        if layer is None or rank > min(layer.weight.shape):
            has = "no such linear layer" if layer is None else f"a rank of {min(layer.weight.shape)} at most"
            raise BackboneError(f"the recipe gives {name} the rank {rank}, and this {type(network).__name__} has {has}")
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, Factored(layer, rank))
