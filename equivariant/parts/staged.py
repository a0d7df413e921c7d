"""Models that can be stopped half-way: a cheap early part, and the rest."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from equivariant.errors import InputError
from equivariant.parts.surgery import evaluating


class Staged(nn.Module, ABC):
    """A model cut in two: M = late∘early."""

    #: The number of features a score network finds in what `early` returns.
    width: int

    @abstractmethod
    def early(self, x: Tensor) -> Tensor:
        """Return what the first part makes of images (n, C, H, W): (n, …)."""

    @abstractmethod
    def late(self, state: Tensor) -> Any:
        """Return the model's output for what `early` returned."""

    def forward(self, x: Tensor) -> Any:
        """Return the whole model's output."""
        return self.late(self.early(x))


def early_share(model: Staged, x: Tensor) -> float:
    """Return which share of the model's operations on images (n, C, H, W) its first part takes; 0 if it has none."""
    found = []
    with evaluating(model):
        for part in (model.early, model.late):
            with FlopCounterMode(display=False) as counter:
                x = part(x)
            found.append(counter.get_total_flops())
    return found[0] / sum(found) if sum(found) else 0.0


class StagedPair(Staged):
    """Any model given as two modules, e.g. the stages of a CNN; `width` is the number of channels between them."""

    def __init__(self, first: nn.Module, second: nn.Module, width: int) -> None:
        super().__init__()
        self.first, self.second, self.width = first, second, width
        self.training = first.training and second.training

    def early(self, x: Tensor) -> Tensor:
        """Run the first module."""
        return self.first(x)

    def late(self, state: Tensor) -> Any:
        """Run the second module."""
        return self.second(state)


class Headed(Staged):
    """A staged network that gives features, with its head on."""

    def __init__(self, staged: Staged, head: nn.Module) -> None:
        super().__init__()
        self.staged, self.head, self.width = staged, head, staged.width
        self.training = staged.training

    def early(self, x: Tensor) -> Tensor:
        """Run the first part."""
        return self.staged.early(x)

    def late(self, state: Tensor) -> Any:
        """Run the second part and the head."""
        return self.head(self.staged.late(state))


class StagedViT(Staged):
    """A timm ViT cut after its first `blocks` blocks; its weights are not copied.

    The late part ends in the model's own head: class scores, or pooled features if it has none. With `tokens=True` it
    ends before pooling, in all normed tokens (n, N, D). Works on any module laid out like timm's VisionTransformer.
    Raises InputError for one that is not, or that its steps, compared once with its own forward, would not reproduce.
    """

    vit: Any
    _STEPS = (
        "patch_embed", "_pos_embed", "patch_drop", "norm_pre", "blocks", "norm", "forward_head", "forward_features",
        "embed_dim",
    )  # fmt: skip

    def __init__(self, vit: Any, blocks: int, *, tokens: bool = False) -> None:
        super().__init__()
        missing = [name for name in self._STEPS if not hasattr(vit, name)]
        if missing:
            raise InputError(
                f"{type(vit).__name__} is not laid out like timm's VisionTransformer, it lacks {', '.join(missing)}: "
                f"cut the model in two yourself and use StagedPair(first, second, width)"
            )
        self.vit, self.depth, self.training = vit, len(vit.blocks), vit.training
        if not 1 <= blocks < self.depth:
            raise InputError(f"blocks={blocks!r} must be from 1 to {self.depth - 1}: the model has {self.depth} blocks")
        self.blocks, self.tokens, self.width = blocks, tokens, int(self.vit.embed_dim)
        self._compare_with_own_forward()

    def early(self, x: Tensor) -> Tensor:
        """Return the tokens after the first blocks, (n, N, D)."""
        x = self.vit.patch_embed(x)  # one name throughout, so that the images are let go before the blocks need room
        x = self.vit.norm_pre(self.vit.patch_drop(self.vit._pos_embed(x)))
        for block in self.vit.blocks[: self.blocks]:
            x = block(x)
        return x

    def late(self, state: Tensor) -> Tensor:
        """Return scores (n, K), features (n, D), or tokens (n, N, D)."""
        for block in self.vit.blocks[self.blocks :]:
            state = block(state)
        state = self.vit.norm(state)
        return state if self.tokens else self.vit.forward_head(state)

    def _compare_with_own_forward(self) -> None:
        size = getattr(self.vit.patch_embed, "img_size", None) or (224, 224)
        parameter = next(self.vit.parameters())
        channels = next(p.shape[1] for p in self.vit.patch_embed.parameters() if p.ndim == 4)
        probe = torch.linspace(-1, 1, channels * size[0] * size[1]).reshape(1, channels, *size).to(parameter)
        try:
            with evaluating(self.vit):
                theirs = self.vit.forward_features(probe) if self.tokens else self.vit(probe)
                ours = self(probe)
            same = theirs.shape == ours.shape and torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4)
        except (TypeError, AttributeError, RuntimeError):
            same = False
        if not same:
            raise InputError(
                f"taken block by block, this {type(self.vit).__name__} does not give its own output (it adds something "
                f"between the blocks, such as rotary positions): cut it in two yourself and use StagedPair"
            )
