"""A bank of finished adapters, and one that is being trained: served to images, whatever their kind.

One adapter serves a whole batch (`shared`), or every image has its own (`per_image`, or `grouped`, where images come in
the order of their adapters). `serve` chooses what is fastest.
"""

from collections.abc import Callable, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from continual.adapters.base import AdapterKind, Adapters, Weights
from continual.distributed import Rows

P = TypeVar("P")  #: what images have become before the first adapter, see `continual.backbones.base.SharedStem`


class TrainableAdapter(nn.Module):
    """One adapter in training: its weights as parameters."""

    def __init__(self, kind: AdapterKind, weights: Weights) -> None:
        super().__init__()
        self.kind = kind
        for name, tensor in weights.items():
            self.register_parameter(name, nn.Parameter(tensor.detach().clone()))

    def weights(self) -> dict[str, Tensor]:
        """Return the live tensors by name (not copies)."""
        return {name: parameter.data for name, parameter in self.named_parameters()}

    def frozen(self) -> dict[str, Tensor]:
        """Return a copy of the weights that later training cannot reach."""
        return {name: tensor.clone() for name, tensor in self.weights().items()}

    def masks(self, images: int, tokens: int, noise: torch.Generator, rows: Rows | None = None) -> list[Tensor] | None:
        """Draw the dropout of a batch of images (B, N, D): a mask (B, N, hidden) for each block; None without dropout.

        It is drawn for a whole batch; `rows` says which of it the `images` are, if not all. Drawn before the
        forward pass, so that this can be compiled and its blocks run again.
        """
        if self.kind.dropout == 0:
            return None
        like = next(iter(self.weights().values()))
        shape = (images if rows is None else rows.total, tokens, self.kind.hidden)
        whole = [like.new_empty(shape).bernoulli_(1 - self.kind.dropout, generator=noise) for _ in like]
        return whole if rows is None else [mask[rows.slice] for mask in whole]

    def bind(self, masks: Sequence[Tensor] | None = None) -> Adapters:
        """Return the adapter as a function of (block, tokens), with dropout if its `masks` are given."""
        return shared(self.kind, dict(self.named_parameters()), masks)


def shared(kind: AdapterKind, weights: Weights, masks: Sequence[Tensor] | None = None) -> Adapters:
    """Serve one adapter to every image of the batch, with dropout if its `masks` are given, one per block."""
    names, columns = list(weights), [tensor.unbind(0) for tensor in weights.values()]
    blocks = [dict(zip(names, own, strict=True)) for own in zip(*columns, strict=True)]

    def adapters(block: int, h: Tensor) -> Tensor:
        return kind.block(blocks[block], h, None if masks is None else masks[block])

    return adapters


def per_image(kind: AdapterKind, bank: Weights, chosen: Tensor) -> Adapters:
    """Serve image `i` of the batch with adapter `chosen[i]` of a bank, in one batched product per block.

    `bank` has a leading axis T over the adapters (see `stacked`); `chosen` is (B,) int64 in [0, T).
    """

    def adapters(block: int, h: Tensor) -> Tensor:
        return kind.block({name: tensor[chosen, block] for name, tensor in bank.items()}, h)

    return adapters


def grouped(kind: AdapterKind, bank: Weights, chosen: Tensor) -> Adapters:
    """Do what `per_image` does for images in the order of their adapters: `chosen` (B,) int64 ascends.

    One product for all images of an adapter, where `per_image` has one for each.
    """
    ones, sizes = chosen.unique_consecutive(return_counts=True)
    own = [shared(kind, one(bank, number)) for number in ones.tolist()]
    parts = sizes.tolist()

    def adapters(block: int, h: Tensor) -> Tensor:
        return torch.cat([serve(block, part) for serve, part in zip(own, h.split(parts), strict=True)])

    return adapters


def stacked(adapters: Sequence[Weights]) -> dict[str, Tensor]:
    """Stack T finished adapters along a new leading axis: each tensor becomes (T, L, ...)."""
    return {name: torch.stack([adapter[name] for adapter in adapters]) for name in adapters[0]} if adapters else {}


def one(bank: Weights, number: int | Tensor) -> dict[str, Tensor]:
    """Return one adapter of a bank."""
    return {name: tensor[number] for name, tensor in bank.items()}


def serve(
    kind: AdapterKind, features: Callable[[P, Adapters], Tensor], stem: P, bank: Weights, chosen: Tensor
) -> Tensor:
    """Return features (B, D) of images, each under its adapter `chosen` (B,) int64 of a bank.

    `features(stem, adapters)` runs a backbone; a stem can be indexed by images.
    """
    if (chosen == chosen[0]).all():
        return features(stem, shared(kind, one(bank, chosen[0])))
    # Measured on a CPU (benchmarks/mos_adapters.py); a GPU would wait for many small products.
    if len(chosen) < 16 or chosen.device.type != "cpu":
        return features(stem, per_image(kind, bank, chosen))
    order = chosen.argsort(stable=True)
    found = features(stem[order], grouped(kind, bank, chosen[order]))  # type: ignore[index]
    return torch.empty_like(found).index_copy_(0, order, found)
