"""The size of a backbone's input, and what a smaller one would save."""

from __future__ import annotations

from typing import Any

from continual.backbones.loading import Backbone

#: sides beyond which a smaller input is proposed, and those that are
LARGE, SMALLER = 256, (224, 98)


def words(backbone: Backbone, *, changeable: bool) -> str:
    """Say how large a backbone's input is and, for a model that is new (`changeable`), what a smaller one costs.

    >>> from continual.testing import tiny_backbone
    >>> words(tiny_backbone(), changeable=True)
    'input: 16 x 16 px'
    """
    height, width = backbone.frozen.image_size
    said = f"input: {height} x {width} px"
    patch = getattr(getattr(backbone.frozen.network, "patch_embed", None), "patch_size", None)
    if not (changeable and height * width > LARGE**2 and patch):
        return said
    sides = [patch[0] * round(side / patch[0]) for side in SMALLER]
    first, *rest = (f"img_size={side} takes about {share(backbone, side, patch[0]):.0%}" for side in sides)
    return f"{said}; --model-arg {first} of the work, {', '.join(rest)}, and sees less detail"


def share(backbone: Backbone, side: int, patch: int) -> float:
    """Return the multiplications of a ViT's blocks for a square input, as a share of those for the size it has.

    Per token one for every weight of the blocks' matrices; per pair of tokens and block, D for the attention's scores
    and D for its sums: n W + 2 L D n^2.
    """
    network: Any = backbone.frozen.network
    weights = sum(p.numel() for p in network.blocks.parameters() if p.ndim == 2)

    def work(height: int, width: int) -> float:
        tokens = (height // patch) * (width // patch) + network.num_prefix_tokens
        return tokens * weights + 2 * backbone.depth * backbone.width * tokens**2

    return work(side, side) / work(*backbone.frozen.image_size)
