"""A wider and deeper ViT of one that is there, for people who pretrain their own.

Copied tokens and blocks that are silent at first are the same function (`lossless`); `duplicate` copies blocks as well,
and `mango` trains the operator that makes the weights. What follows is the user's own pretraining: a grown network
starts it where the small one ended.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import itemgetter
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn
from torch.func import functional_call

from continual.backbones.growth import Cores, check_growable, mapped, of_rank, starting, with_shares
from continual.backbones.loading import Backbone, create
from continual.backbones.recipes import Grown
from continual.data.ranges import ValueRange
from continual.errors import BackboneError, InputError
from continual.learning.extractor import Progress
from continual.resizing.compressing import remade
from continual.resizing.distilling import TokenStates, distil
from continual.resizing.images import Unlabelled
from continual.seeding import generator, seeded

How = Literal["lossless", "duplicate", "mango"]
#: the noise in cores that are to be trained, in deviations of a core
NOISE = 0.01


def check(backbone: Backbone, width: int, depth: int, heads: int | None = None, how: str = "lossless") -> int:
    """Return the number of heads of the larger ViT.

    Raises BackboneError for networks that cannot be grown, InputError for a shape that is no larger one, or to which
    this one cannot be grown without changing its heads or, where it is to be lossless, its function.
    """
    if len(backbone.parts) > 1:
        raise BackboneError("several backbones side by side are grown one by one")
    check_growable(backbone.frozen.network)
    if how not in get_args(How):
        raise InputError(f"a backbone is grown by {', '.join(get_args(How))}, not by {how!r}")
    size, own = backbone.frozen.network.blocks[0].attn.head_dim, backbone.frozen.width
    if width < own or depth < backbone.depth or (width, depth) == (own, backbone.depth):
        raise InputError(
            f"{backbone.name} has {backbone.depth} blocks of width {own}: ask for more, got {depth} of {width}"
        )
    if width % size:
        near = max(own, width // size * size)
        raise InputError(f"its heads are {size} wide, and {width} is no multiple: take {near} or {near + size}")
    if heads is not None and heads * size != width:
        raise InputError(f"its heads stay {size} wide, which makes {width // size} of them in {width}, not {heads}")
    if how == "lossless" and width % own:
        near = max(width // own * own, own)
        raise InputError(
            f"lossless growth copies a token's {own} numbers as a whole, and {width} is no multiple: take {near} or "
            f"{near + own}, or how='duplicate' or 'mango', which change the function"
        )
    return width // size


def grown(
    backbone: Backbone,
    images: Any = None,
    *,
    width: int | None = None,
    depth: int | None = None,
    heads: int | None = None,
    how: How = "lossless",
    steps: int = 0,
    rank: int = 1,
    lr: float = 3e-4,
    batch_size: int = 16,
    seed: int = 1993,
    value_range: ValueRange | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> Backbone:
    """Return a ViT of `width` and `depth`, to be pretrained further, made of one that is smaller.

    - "lossless": the same function. A token's numbers are copied; what reads copies takes shares of them that differ,
      so that training tells the copies apart. New blocks stand after those they are copies of, and add nothing yet.
    - "duplicate": even shares, and the blocks over again. With `steps`, it is trained to give its parent's tokens.
    - "mango": the weights are made by a trained operator of that `rank`, which starts as "duplicate"; its cores are
      trained for `steps` to give the parent's tokens, on `images` of anything without labels.

    Features of a copied width are the parent's, as often as it was copied. The backbone given stays as it is;
    `save_backbone` writes the result. Raises as `check` does, and InputError for steps without images, or of lossless
    growth, which has nothing to learn of its parent.
    """
    width, depth = width or backbone.frozen.width, depth or backbone.depth
    shape = {"embed_dim": width, "num_heads": check(backbone, width, depth, heads, how), "depth": depth}
    check_training(how, steps, rank, images is not None)
    data = Unlabelled(images, backbone, value_range) if steps else None
    network, parents = backbone.frozen.network, backbone.depth
    source = [number % backbone.frozen.width for number in range(width)]
    # Of lossless growth, copies stand behind their block; else the blocks come over again.
    blocks = [place * parents // depth if how == "lossless" else place % parents for place in range(depth)]
    cores = starting(source, blocks, backbone.frozen.width, parents, network.blocks[0].mlp.fc1.out_features)
    if how == "lossless":
        cores = with_shares(cores, _uneven(cores.writing[0, :, :, 0], seed))
    if how == "mango":
        cores = of_rank(cores, rank, NOISE, generator(seed, "cores"))
    device = next(network.parameters()).device
    cores = Cores(*(nn.Parameter(core.to(device)) for core in cores.tensors))
    with seeded(seed, "random weights, soon replaced"):
        large: Any = create(backbone.name, {**backbone.model_args, **shape}).to(device).requires_grad_(False).eval()
    tokens, state = TokenStates(large), network.state_dict()
    # A parent's blocks are compared with those that end at the same share of the depth, and the last norm's tokens.
    places = [*((block + 1) * depth // parents - 1 for block in range(parents)), depth]

    def train(read: Callable[[Tensor], Sequence[Tensor]], parameters: Iterable[Tensor]) -> None:
        if data is None:
            return
        wanted = TokenStates(network)
        distil(
            lambda batch: itemgetter(*places)(read(batch)),
            lambda batch: [states[..., source] for states in wanted(batch)],
            parameters, data, steps, lr=lr, batch_size=batch_size, seed=seed, device=device, workers=workers,
            progress=progress,
        )  # fmt: skip

    if how == "mango":
        train(lambda batch: by_cores(tokens, state, cores, batch), cores.tensors)
    with torch.no_grad():
        large.load_state_dict(mapped(state, cores))
    if how == "lossless":
        _silence(large, [place for place in range(depth) if place != blocks.index(blocks[place])])
    if how == "duplicate":
        train(tokens, large.requires_grad_(True).parameters())
    made = remade(backbone, large, Grown(parent=backbone.sha256, how=how), **shape)
    if how == "lossless":
        _check_same(made, backbone, source)
    return made


def check_training(how: str, steps: int, rank: int, images: bool) -> None:
    """Raise InputError for steps and images that do not go together, or with how it grows."""
    if steps < 0 or rank < 1:
        raise InputError(f"steps are 0 or more and the rank 1 or more, got {steps} and {rank}")
    if how == "lossless" and steps:
        raise InputError(
            "lossless growth gives its parent's tokens as it is: leave steps out, or grow by mango or duplicate"
        )
    if rank > 1 and how != "mango":
        raise InputError(f"a rank is of how='mango', not of {how!r}: leave it out")
    if steps and not images:
        raise InputError("steps need images, of anything like what the backbone is for; labels are not needed")
    if how == "mango" and not steps:
        raise InputError("mango trains an operator: give steps (100, say) and images, or grow by lossless")


def _uneven(copies: Tensor, seed: int) -> Tensor:
    """Return shares (I, I') of copies (I, I') that sum to 1 and differ, by half at most."""
    weights = copies * (1 + torch.rand(copies.shape, generator=generator(seed, "shares")))
    return weights / weights.sum(1, keepdim=True)


def by_cores(tokens: TokenStates, state: Mapping[str, Tensor], cores: Cores, images: Tensor) -> list[Tensor]:
    """Return what a network makes of images (B, C, H, W), with the weights that cores make of a smaller one's state."""
    made = {f"network.{name}": value for name, value in mapped(state, cores).items()}
    found: list[Tensor] = functional_call(tokens, made, (images,))
    return found


def _silence(network: Any, places: Sequence[int]) -> None:
    """Let blocks add nothing: what writes their outputs is zero."""
    for place in places:
        for layer in (network.blocks[place].attn.proj, network.blocks[place].mlp.fc2):
            for parameter in layer.parameters():
                parameter.data.zero_()


def _check_same(made: Backbone, parent: Backbone, source: Sequence[int]) -> None:
    image = parent.frozen.probe()
    with torch.no_grad():
        found, wanted = made.frozen.features(image), parent.frozen.features(image)[:, list(source)]
    worst = float((found - wanted).abs().max())
    if not math.isfinite(worst) or worst > 1e-3 * float(wanted.abs().max().clamp_min(1e-6)):
        raise BackboneError(
            f"the grown network does not give its parent's features (they differ by {worst:.2g}): nothing was made"
        )
