"""Classifiers with two heads, as timm has them: distilled ones, and those that also classify every token."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from equivariant.errors import InputError


class TwoHeads(nn.Module):
    """The mean of two heads' scores (n, K), for features (n, 2·D): first D for the first head, then D for the second.

    `in_features` is 2·D, None where a head does not say how many features it takes.
    """

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second = first, second
        widths = [next((m.in_features for m in h.modules() if isinstance(m, nn.Linear)), None) for h in (first, second)]
        self.in_features = sum(widths) if None not in widths else None  # type: ignore[arg-type]

    def forward(self, features: Tensor) -> Tensor:
        """Return (first + second) / 2."""
        one, other = features.chunk(2, dim=-1)
        return (self.first(one) + self.second(other)) / 2


class Beside(nn.Module):
    """What stands for a head that was taken off: twice the features in one half, zeros in the other.

    The model then takes the mean of two such, which is [features of the first head, features of the second].
    """

    def __init__(self, place: int) -> None:
        super().__init__()
        self.place = place

    def forward(self, features: Tensor) -> Tensor:
        halves = (2 * features, torch.zeros_like(features))
        return torch.cat(halves if self.place == 0 else halves[::-1], dim=-1)


class TokenHead(nn.Module):
    """The end of a model that classifies pooled tokens and every token: tokens (n, N, D) → scores (n, K)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.head, self.aux_head, self.head_drop = model.head, model.aux_head, model.head_drop
        self.global_pool, self._kind = model.global_pool, type(model)
        self.in_features = int(model.num_features)

    def forward(self, tokens: Tensor) -> Tensor:
        """Return what the model's own `forward_head` returns."""
        return self._kind.forward_head(self, tokens)


class TokenFeatures(nn.Module):
    """The rest of such a model: images (n, C, H, W) → tokens (n, N, D)."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """Return what the model's own `forward_features` returns."""
        return self.model.forward_features(x)


def take_off_two(model: Any) -> tuple[nn.Module, nn.Module] | None:
    """Take both heads off, in place: return what gives features, and the heads; None if there are not two.

    Raises InputError if they have been taken off already.
    """
    if isinstance(getattr(model, "aux_head", None), nn.Module) and hasattr(model, "forward_features"):
        head = TokenHead(model)
        model.head, model.aux_head = nn.Identity(), None
        return TokenFeatures(model).train(model.training), head.train(model.training)
    for part in model.modules():
        first, second = getattr(part, "head", None), getattr(part, "head_dist", None)
        if isinstance(first, nn.Module) and isinstance(second, nn.Module) and hasattr(part, "distilled_training"):
            if isinstance(first, nn.Identity | Beside):
                raise InputError(f"the two heads of this {type(model).__name__} have been taken off already")
            part.head, part.head_dist, part.distilled_training = Beside(0), Beside(1), False
            return model, TwoHeads(first, second).train(model.training)
    return None
