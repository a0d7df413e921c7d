"""A smaller ViT of one that is there: every linear layer of its blocks as two low-rank factors (PELA, CVPR 2024).

PELA's factors are those of the weight's singular values, and many epochs of ImageNet repair them. Here
they are those that change the layer's outputs least on the user's own images, in closed form, and some epochs of
label-free distillation on the same images follow.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from continual.backbones.base import FrozenBackbone
from continual.backbones.factored import Factored, factor, is_factored, linear_layers
from continual.backbones.loading import Backbone
from continual.backbones.recipes import Compressed
from continual.backbones.vit import FrozenViT
from continual.data.ranges import ValueRange
from continual.errors import BackboneError, InputError
from continual.learning.extractor import Progress
from continual.resizing.distilling import TokenStates, distil
from continual.resizing.images import Unlabelled

#: images of which the inputs of all layers are summed, and tokens for each of a layer's inputs if that takes more
LOOKED_AT = 256
TOKENS_EACH = 8
#: the least variance of a direction of inputs, as a share of the mean over directions
FLOOR = 1e-4


@dataclass(frozen=True)
class Sizes:
    """What a compression leaves: numbers in the linear layers of the blocks, and in the whole network."""

    ranks: dict[str, int]
    layers_before: int
    layers_after: int
    before: int
    after: int


@dataclass(frozen=True)
class Inputs:
    """The mean (D,) of what enters a layer, and its products: their mean (D, D)."""

    mean: Tensor
    moment: Tensor

    @property
    def covariance(self) -> Tensor:
        """Their covariance (D, D)."""
        return self.moment - self.mean.outer(self.mean)


def sizes(backbone: Backbone, ratio: float) -> Sizes:
    """Return the ranks that make the linear layers `ratio` times smaller, r = in out / (ratio (in + out)), and sizes.

    At ratio 1 all layers stay as they are. Raises BackboneError for networks that cannot be compressed, or are so
    already, InputError for a ratio that leaves a layer nothing.
    """
    network = backbone.frozen.network
    if len(backbone.parts) > 1:
        raise BackboneError("several backbones side by side are compressed one by one")
    if is_factored(network):
        raise BackboneError(
            f"{backbone.name} is compressed already: compress the backbone that it was made of, at a larger ratio"
        )
    layers = linear_layers(network)
    shapes = {name: tuple(layer.weight.shape) for name, layer in layers.items()}
    most = min(rows * width / (rows + width) for rows, width in shapes.values())
    if not (math.isfinite(ratio) and 1 <= ratio <= most):
        raise InputError(f"the ratio is how many times smaller the layers become, from 1 to {most:.0f}, got {ratio:g}")
    ranks = {} if ratio == 1 else {n: int(r * w / (ratio * (r + w))) for n, (r, w) in shapes.items()}
    before = sum(layer.weight.numel() for layer in layers.values())
    after = sum(ranks[n] * (r + w) for n, (r, w) in shapes.items()) if ranks else before
    every = sum(parameter.numel() for parameter in network.parameters())
    return Sizes(ranks, before, after, every, every - before + after)


def compressed(
    backbone: Backbone,
    images: Any,
    *,
    ratio: float = 1.5,
    epochs: int = 3,
    lr: float = 3e-4,
    batch_size: int = 16,
    half: bool = False,
    seed: int = 1993,
    value_range: ValueRange | None = None,
    workers: int = 0,
    progress: Progress | None = None,
) -> Backbone:
    """Return a backbone whose blocks hold `ratio` times fewer numbers in their linear layers.

    `images` are some hundreds or thousands of anything like what it is for, as `predict` takes them, without labels:
    factors are chosen by what enters each layer for them, and then trained for `epochs` to give the original's tokens.
    `epochs=0` leaves that out. With `half`, all numbers are rounded to 16 bits in the end, which halves its file. The
    backbone given stays as it is. `save_backbone` writes the result.

    Raises InputError for a ratio out of its range and for too few images, BackboneError for networks of other families
    and one that is compressed already.
    """
    found = sizes(backbone, ratio)
    if epochs < 0 or batch_size < 1 or not lr > 0:
        raise InputError(f"epochs are 0 or more, batch_size and lr above 0, got {epochs}, {batch_size} and {lr}")
    data = Unlabelled(images, backbone, value_range)
    network = copy.deepcopy(backbone.frozen.network)
    if found.ranks:
        given: dict[str, Any] = {"batch_size": batch_size, "seed": seed, "workers": workers, "progress": progress}
        put_factors(network, found.ranks, inputs(network, data, **given), progress)
        mend(network, backbone.frozen.network, data, epochs, lr=lr, **given)
    if half:
        for parameter in network.parameters():
            parameter.data = parameter.data.half().to(parameter)
    recipe = Compressed(parent=backbone.sha256, ratio=ratio, ranks=found.ranks)
    return remade(backbone, network, recipe)


def mend(network: nn.Module, original: nn.Module, images: Unlabelled, epochs: int, **options: Any) -> None:
    """Train all of a network for some epochs to give the original's tokens; `options` are those of `distil`."""
    steps = epochs * -(-images.count // options["batch_size"])
    device = next(network.parameters()).device
    parameters = network.requires_grad_(True).parameters()
    distil(TokenStates(network), TokenStates(original), parameters, images, steps, device=device, **options)


def remade(backbone: Backbone, network: nn.Module, recipe: Any, **model_args: Any) -> Backbone:
    """Return a network made of a backbone's, frozen, as a backbone that prepares images as that one does."""
    arguments = {**backbone.model_args, **model_args}
    made = replace(backbone, frozen=FrozenViT(network), model_args=arguments, weights_file=None, sha256="")
    return replace(made, fit=None, recipe=recipe)


def inputs(
    network: Any,
    images: Unlabelled,
    batch_size: int = 16,
    *,
    seed: int = 1993,
    workers: int = 0,
    progress: Progress | None = None,
) -> dict[str, Inputs]:
    """Return what enters each linear layer of the blocks, over all tokens of some of the images.

    They are as many as say enough, see `LOOKED_AT`. In memory are 8 D^2 bytes for a layer of D inputs.
    """
    layers = linear_layers(network)
    widest = max(layer.in_features for layer in layers.values())
    most = max(LOOKED_AT, -(-TOKENS_EACH * widest // network.patch_embed.num_patches))
    sums: dict[str, list[Any]] = {}
    total, done = min(most, images.count), 0
    with torch.no_grad(), _summed(layers, sums):
        for batch in images.batches(most, batch_size, seed, workers):
            network.forward_features(batch.to(next(network.parameters()).device))
            done += len(batch)
            if progress is not None:
                progress("collecting features", done, total, {})
    return {name: Inputs(rows / count, products / count) for name, (count, rows, products) in sums.items()}


@contextmanager
def _summed(layers: Mapping[str, nn.Module], sums: dict[str, list[Any]]) -> Iterator[None]:
    """Add up what enters layers: how many tokens, their sum (D,) and that of their products (D, D), in float64.

    A batch's products are made in the network's own precision, at half the time; what that rounds lies below `FLOOR`.
    """

    def hook(name: str) -> Any:
        def add(_: nn.Module, given: tuple[Tensor, ...]) -> None:
            rows = given[0].detach().flatten(0, -2)
            width = rows.shape[1]
            found = sums.setdefault(
                name, [0, rows.new_zeros(width, dtype=torch.float64), rows.new_zeros(width, width, dtype=torch.float64)]
            )
            found[0] += len(rows)
            found[1] += rows.sum(0)
            found[2] += rows.mT @ rows

        return add

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def put_factors(
    network: nn.Module, ranks: Mapping[str, int], entering: Mapping[str, Inputs], progress: Progress | None = None
) -> None:
    """Put factors of these ranks in the place of a network's layers; by the singular values alone without inputs."""
    layers = linear_layers(network)
    factor(network, ranks)
    for done, (name, rank) in enumerate(ranks.items(), 1):
        layer, made = layers[name], network.get_submodule(name)
        assert isinstance(made, Factored)
        own = None if layer.bias is None else layer.bias.data
        made.up.weight.data, made.down.weight.data, bias = factors(layer.weight.data, own, rank, entering.get(name))
        if bias is not None:
            made.up.bias.data = bias.clone()
        if progress is not None:
            progress("factoring weights", done, len(ranks), {})


def factors(
    weight: Tensor, bias: Tensor | None, rank: int, entering: Inputs | None = None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return (A (K, r), B (r, D), bias (K,)) of the layer W (K, D) that change its outputs least.

    Of inputs x with covariance S, |(W - A B) x|^2 is least on average for W S^(1/2) = U s V', A = U s^(1/2) and
    B = s^(1/2) V' S^(-1/2), with the bias that keeps the mean output; a layer without one takes their second moment for
    S. Directions in which inputs vary less than `FLOOR` of the mean count as if they varied that much. Without inputs,
    S is the identity: the singular values of W alone. Computed in float64.
    """
    w, back = weight.double(), None
    if entering is None:
        u, s, vt = torch.linalg.svd(w, full_matrices=False)
    else:
        spread = (entering.moment if bias is None else entering.covariance).to(w.device)
        values, vectors = torch.linalg.eigh(spread)
        roots = values.clamp_min(FLOOR * float(values.clamp_min(0).mean())).clamp_min(1e-30).sqrt()
        u, s, vt = torch.linalg.svd(w @ (vectors * roots), full_matrices=False)
        back = (vectors / roots).mT
    half = s[:rank].sqrt()
    up, down = u[:, :rank] * half, half.unsqueeze(1) * vt[:rank]
    down = down if back is None else down @ back
    if entering is not None and bias is not None:
        bias = bias.double() + (w - up @ down) @ entering.mean.to(w.device)
    return up.to(weight).contiguous(), down.to(weight).contiguous(), None if bias is None else bias.to(weight)


def likeness(frozen: FrozenBackbone, of: FrozenBackbone, images: Iterator[Tensor] | list[Tensor]) -> float:
    """Return the share of the variance of a backbone's features, of images, that another one's features explain.

    1 - |f - f*|^2 / |f* - mean(f*)|^2, so that 1 is the same function.
    """
    with torch.no_grad():
        pairs = [(frozen.features(batch), of.features(batch)) for batch in images]
    mine, its = (torch.cat(column).double() for column in zip(*pairs, strict=True))
    return 1 - float(((mine - its) ** 2).sum() / ((its - its.mean(0)) ** 2).sum())
