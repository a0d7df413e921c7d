"""A bank of finished adapters, and one that is being trained: served to images, whatever their kind.

One adapter serves a whole batch (`shared`), or every image has its own (`per_image`, or `grouped`, where images come in
the order of their adapters). `serve` chooses what is fastest.
"""

from collections.abc import Callable, Collection, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from continual.adapters.base import AdapterKind, Adapters, Pool, Serving, Weights
from continual.distributed import Rows

P = TypeVar("P")  #: what images have become before the first adapter, see `continual.backbones.base.SharedStem`


class TrainableAdapter(nn.Module):
    """One adapter in training: its weights as parameters, except for those that are `fixed` or no floats."""

    def __init__(self, kind: AdapterKind, weights: Weights, fixed: Collection[str] = ()) -> None:
        super().__init__()
        self.kind, self.fixed = kind, frozenset(fixed)
        for name, tensor in weights.items():
            own = tensor.detach().clone()
            if name in fixed or not own.is_floating_point():
                self.register_buffer(name, own)
            else:
                self.register_parameter(name, nn.Parameter(own))

    def weights(self) -> dict[str, Tensor]:
        """Return the live tensors that are trained, by name (not copies)."""
        return {name: parameter.data for name, parameter in self.named_parameters()}

    def frozen(self) -> dict[str, Tensor]:
        """Return a finished copy of the weights that later training cannot reach, without those that are fixed."""
        whole = {**dict(self.named_buffers()), **self.weights()}
        own = {name: tensor.clone() for name, tensor in whole.items() if name not in self.fixed}
        return self.kind.finished(own)

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
        return shared(self.kind, {**dict(self.named_buffers()), **dict(self.named_parameters())}, masks)


def shared(kind: AdapterKind, weights: Weights, masks: Sequence[Tensor] | None = None) -> Serving:
    """Serve one adapter to every image of the batch, with dropout if its `masks` are given, one per block."""
    # Taken apart once: a gradient of every block by itself would be as large as that of all.
    blocks = {} if kind.acts("after") else weights
    apart = {name: tensor if name in kind.whole else tensor.unbind(0) for name, tensor in blocks.items()}

    def of_block(block: int) -> dict[str, Tensor]:
        place = block - kind.first_block
        return {name: own if isinstance(own, Tensor) else own[place] for name, own in apart.items()}

    def beside(block: int, h: Tensor) -> Tensor:
        return kind.block(of_block(block), h, None if masks is None else masks[block])

    def attention(block: int, own: Tensor) -> Tensor:
        return own if block < kind.first_block else kind.attention(of_block(block), own)

    def after(tokens: Sequence[Tensor], pool: Pool) -> Tensor:
        return kind.after(weights, tokens, pool)

    return _where_it_acts(kind, beside, attention, after)


def per_image(kind: AdapterKind, bank: Weights, chosen: Tensor) -> Serving:
    """Serve image `i` of the batch with adapter `chosen[i]` of a bank, in one batched product per block.

    `bank` has a leading axis T over the adapters (see `stacked`); `chosen` is (B,) int64 in [0, T).
    """

    def of_block(block: int) -> dict[str, Tensor]:
        place = block - kind.first_block
        return {name: t[chosen] if name in kind.whole else t[chosen, place] for name, t in bank.items()}

    def beside(block: int, h: Tensor) -> Tensor:
        return kind.block(of_block(block), h)

    def attention(block: int, own: Tensor) -> Tensor:
        return own if block < kind.first_block else kind.attention(of_block(block), own)

    def after(tokens: Sequence[Tensor], pool: Pool) -> Tensor:
        # An adapter serves all views of its image; `len` would hold a graph to as many images as it was traced with.
        each = chosen.repeat_interleave(tokens[0].shape[0] // chosen.shape[0])
        return kind.after(one(bank, each), tokens, pool)

    return _where_it_acts(kind, beside, attention, after)


def grouped(kind: AdapterKind, bank: Weights, chosen: Tensor) -> Serving:
    """Do what `per_image` does for images in the order of their adapters: `chosen` (B,) int64 ascends.

    One product for all images of an adapter, where `per_image` has one for each; except for the weights of attention.
    """
    ones, sizes = chosen.unique_consecutive(return_counts=True)
    own = [shared(kind, one(bank, number)) for number in ones.tolist()]

    def beside(block: int, h: Tensor) -> Tensor:
        parts = h.split(sizes.tolist())
        return torch.cat([serve(block, part) for serve, part in zip(own, parts, strict=True)])

    def after(tokens: Sequence[Tensor], pool: Pool) -> Tensor:
        views = tokens[0].shape[0] // len(chosen)
        parts = zip(*[each.split((views * sizes).tolist()) for each in tokens], strict=True)
        return torch.cat([kind.after(one(bank, k), part, pool) for k, part in zip(ones.tolist(), parts, strict=True)])

    return _where_it_acts(kind, beside, per_image(kind, bank, chosen).attention, after)


def _where_it_acts(
    kind: AdapterKind,
    beside: Callable[[int, Tensor], Tensor],
    attention: Callable[[int, Tensor], Tensor] | None,
    after: Callable[[Sequence[Tensor], Pool], Tensor],
) -> Serving:
    """Return the one of three functions by which a kind acts."""
    return Serving(
        beside if kind.acts("block") else None,
        attention if kind.acts("attention") else None,
        after if kind.acts("after") else None,
        kind.reads,
    )


def completed(bank: Sequence[Weights]) -> list[dict[str, Tensor]]:
    """Return finished adapters with all their tensors: what a later one does not hold is the first one's."""
    return [{**bank[0], **adapter} for adapter in bank]


def stacked(adapters: Sequence[Weights]) -> dict[str, Tensor]:
    """Stack T finished adapters along a new leading axis: each tensor becomes (T, ...)."""
    whole = completed(adapters) if adapters else []
    return {name: torch.stack([adapter[name] for adapter in whole]) for name in whole[0]} if whole else {}


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
    order = chosen.argsort(stable=True)
    if kind.acts("attention"):  # one weight for each image would be far larger than its tokens
        ones, sizes = chosen[order].unique_consecutive(return_counts=True)
        parts = zip(ones.tolist(), order.split(sizes.tolist()), strict=True)
        found = torch.cat([features(stem[rows], shared(kind, one(bank, k))) for k, rows in parts])  # type: ignore[index]
        return torch.empty_like(found).index_copy_(0, order, found)
    # Measured on a CPU (benchmarks/mos_adapters.py; a ladder is many small products, which are worth putting together
    # from four images each on); a GPU would wait for them.
    alone = 4 * len(chosen.unique()) if kind.acts("after") else 16
    if len(chosen) < alone or chosen.device.type != "cpu":
        return features(stem, per_image(kind, bank, chosen))
    found = features(stem[order], grouped(kind, bank, chosen[order]))  # type: ignore[index]
    return torch.empty_like(found).index_copy_(0, order, found)
