"""What a kind of adapter is: how its weights begin, and what it changes in a frozen ViT.

A kind is a function of plain tensors, so serving, dropout, stacking, storing and export are written once
(`continual.adapters.bank`). An adapter is a mapping from names to tensors. A kind acts in one of three places, by the
method it defines: beside each block's MLP (`block`), on the weight of a block's attention (`attention`), or after the
whole ViT, on the tokens that its blocks gave (`after`).
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn.functional import layer_norm, linear

from continual.adapters import KINDS

#: The tensors of one adapter.
Weights = Mapping[str, Tensor]

#: Tokens (B, N, K) -> what a ViT's features are made of (B, K).
Pool = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Serving:
    """What adapters change in a forward pass; of a batch's images all have one, or each its own."""

    #: (block index, tokens h (B, N, D)) -> what to add to the block's output (B, N, D)
    beside: Callable[[int, Tensor], Tensor] | None = None
    #: (block index, W (K, D)) -> the weight that stands for the attention's W (K, D), or for each image's (B, K, D)
    attention: Callable[[int, Tensor], Tensor] | None = None
    #: (standardised tokens (B m, N, D) after the blocks of `read_blocks`, pool) -> what to add to the features (B m, D)
    after: Callable[[Sequence[Tensor], Pool], Tensor] | None = None
    reads: int = 0  #: after how many blocks `after` reads tokens

    def __call__(self, block: int, h: Tensor) -> Tensor:
        """Return what is added to a block's output (B, N, D)."""
        assert self.beside is not None
        return self.beside(block, h)


#: What a ViT is served; a function (block index, h (B, N, D)) -> (B, N, D) is one that stands beside the MLPs.
Adapters = Serving | Callable[[int, Tensor], Tensor]


def serving(adapters: Adapters | None) -> Serving:
    """Return adapters as they are served; a function stands beside the MLPs."""
    return adapters if isinstance(adapters, Serving) else Serving(adapters)


@dataclass(frozen=True)
class Shapes:
    """What a kind needs to know of a ViT."""

    depth: int  #: L, blocks
    width: int  #: D, numbers per token
    attention: int = 0  #: K, rows of the one weight (K, D) of queries, keys and values; 0 if there is none


class Regulation(Protocol):
    """What a kind does in training beside following gradients of the loss."""

    @property
    def live(self) -> Mapping[str, Tensor]:
        """Return tensors that it changes, for checkpoints."""

    def penalty(self) -> Tensor:
        """Return what is added to the loss."""

    def after_step(self) -> None:
        """Act on the weights after an optimizer's step; the gradients are there still."""


class AdapterKind(BaseModel, ABC):
    """A kind of adapter; its fields are its settings.

    Every tensor's leading axis runs over the blocks, except for those of `whole`, which all blocks share.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ClassVar[str]
    #: tensors without an axis over the blocks
    whole: ClassVar[frozenset[str]] = frozenset()
    #: tensors (L, r, D) whose rows read the tokens between a block's halves, and nothing else does
    token_readers: ClassVar[frozenset[str]] = frozenset()
    #: the first block that has weights of its own
    first_block: ClassVar[int] = 0

    lr_scale: float = Field(1.0, gt=0, description="the adapter's rate as a share of the method's lr")

    @property
    def dropout(self) -> float:
        """The probability with which a hidden number is dropped in training."""
        return 0.0

    @property
    def hidden(self) -> int:
        """How many hidden numbers per token dropout acts on."""
        return 0

    @property
    def reads(self) -> int:
        """After how many blocks `after` reads tokens."""
        return 0

    @property
    def views_kept(self) -> int:
        """How many views of a training image are kept as what the ViT makes of them; 0 runs it in every epoch."""
        return 0

    @property
    def reading(self) -> frozenset[str]:
        """Tensors that the later adapters of a method that merges take from the first one, and leave as they are.

        In the others, what the adapter adds is then linear, so that the mean of adapters is the mean of what they do.
        """
        return frozenset()

    @property
    def places(self) -> str:
        """Which part of what it changes an adapter's numbers are for, where a setting says so."""
        return ""

    def check(self, shapes: Shapes) -> None:
        """Raise InputError for a ViT that has no place for adapters of this kind."""

    @abstractmethod
    def new(self, shapes: Shapes, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Return the weights of a new adapter, (L, ...) each, which adds nothing yet; `generator` is of the CPU."""

    def rate(self, weights: Mapping[str, Tensor]) -> float:
        """Return the rate at which weights are trained that begin as these, as a share of the method's lr."""
        return self.lr_scale

    def finished(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return weights as an adapter keeps them when its training is over."""
        return dict(weights)

    def regulation(self, weights: Mapping[str, Tensor], steps: int) -> "Regulation | None":
        """Return what a training of so many steps does beside following gradients of its loss, if there is anything.

        `weights` are the parameters that are trained.
        """
        return None

    def block(self, weights: Mapping[str, Tensor], h: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return what is added to a block's output (B, N, D), from the tokens h (B, N, D) between its halves.

        `weights` are the block's, without the axis L, and are shared by the batch, or carry a leading axis B: one
        adapter per image. Dropout happens if, and only if, its mask `keep` (B, N, hidden) of zeros and ones is given,
        so there is no training mode to forget to leave.
        """
        raise NotImplementedError

    def attention(self, weights: Mapping[str, Tensor], own: Tensor) -> Tensor:
        """Return the weight that stands for a block's `attn.qkv.weight` (K, D); `weights` as in `block`."""
        raise NotImplementedError

    def after(self, weights: Mapping[str, Tensor], tokens: Sequence[Tensor], pool: Pool) -> Tensor:
        """Return what is added to features (B, D), of tokens (B, N, D): see `read_blocks`.

        They are standardised, and the first are those between the first block's halves. `weights` are all of the
        adapter, shared by the batch or with a leading axis B.
        """
        raise NotImplementedError

    def acts(self, place: str) -> bool:
        """Say whether adapters of this kind act in a place: "block", "attention" or "after"."""
        return getattr(type(self), place) is not getattr(AdapterKind, place)

    def numbers(self, shapes: Shapes) -> int:
        """Return how many numbers one finished adapter holds."""
        return sum(tensor.numel() for tensor in self.finished(self.new(shapes, torch.Generator())).values())


def read_blocks(depth: int, count: int) -> list[int]:
    """Return after how many blocks of a ViT of `depth` the `count` readings lie, spread evenly.

    The last block is left out: what it says is not known of every token.

    >>> read_blocks(11, 4), read_blocks(2, 4)
    ([2, 5, 8, 10], [1])
    """
    number = min(count, depth - 1)
    return [round(place * (depth - 1) / number) for place in range(1, number + 1)]


def standardised(tokens: Tensor) -> Tensor:
    """Return tokens (B, N, D), each brought to mean 0 and deviation 1; those that are so already stay."""
    return layer_norm(tokens, tokens.shape[-1:], eps=1e-8)


def divisors(number: int) -> str:
    """Return what divides a number, for an error."""
    return ", ".join(str(d) for d in range(1, number + 1) if number % d == 0)


def affine(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return `x @ weight.T + bias` in one operation, the weights shared by the batch or one for each image."""
    if weight.dim() == 2:
        return linear(x, weight, bias)
    return torch.baddbmm(bias.unsqueeze(1), x, weight.transpose(1, 2))


def make(name: str, own: Mapping[str, Any], shared: Mapping[str, Any]) -> AdapterKind:
    """Return the kind of that name with its `own` settings, and those of the `shared` ones that it has.

    Raises InputError for an unknown kind, pydantic's ValidationError for settings that it does not have.
    """
    kind: type[AdapterKind] = KINDS.get(name)
    return kind(**{key: value for key, value in shared.items() if key in kind.model_fields} | dict(own))
