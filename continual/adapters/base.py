"""What a kind of adapter is: how its weights begin, and what it adds to each block of a frozen ViT.

A kind is a function of plain tensors, so serving, dropout, stacking, storing and export are written once
(`continual.adapters.bank`). An adapter is a mapping from names to tensors whose leading axis L runs over the blocks.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from continual.adapters import KINDS

#: The tensors of one adapter; the leading axis L runs over the blocks.
Weights = Mapping[str, Tensor]

#: (block index, tokens h (B, N, D)) -> what to add to the block's output (B, N, D)
Adapters = Callable[[int, Tensor], Tensor]


@dataclass(frozen=True)
class Shapes:
    """What a kind needs to know of a ViT."""

    depth: int  #: L, blocks
    width: int  #: D, numbers per token


class AdapterKind(BaseModel, ABC):
    """A kind of adapter; its fields are its settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: ClassVar[str]

    @property
    def dropout(self) -> float:
        """The probability with which a hidden number is dropped in training."""
        return 0.0

    @property
    def hidden(self) -> int:
        """How many hidden numbers per token dropout acts on."""
        return 0

    @abstractmethod
    def new(self, shapes: Shapes, generator: torch.Generator | None) -> dict[str, Tensor]:
        """Return the weights of a new adapter, (L, ...) each, which adds nothing yet; `generator` is of the CPU."""

    @abstractmethod
    def block(self, weights: Mapping[str, Tensor], h: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return what is added to a block's output (B, N, D), from the tokens h (B, N, D) between its halves.

        `weights` are the block's, without the axis L, and are shared by the batch, or carry a leading axis B: one
        adapter per image. Dropout happens if, and only if, its mask `keep` (B, N, hidden) of zeros and ones is given,
        so there is no training mode to forget to leave.
        """

    def numbers(self, shapes: Shapes) -> int:
        """Return how many numbers one adapter holds."""
        return sum(tensor.numel() for tensor in self.new(shapes, None).values())


def make(name: str, own: Mapping[str, Any], shared: Mapping[str, Any]) -> AdapterKind:
    """Return the kind of that name with its `own` settings, and those of the `shared` ones that it has.

    Raises InputError for an unknown kind, pydantic's ValidationError for settings that it does not have.
    """
    kind: type[AdapterKind] = KINDS.get(name)
    return kind(**{key: value for key, value in shared.items() if key in kind.model_fields} | dict(own))
