"""Proxy losses: how unsure a model is of one view. Equizero takes the view with the least.

Each maps a model's output for n views to (n,). Scores are logits with the classes on axis 1, (n, K) or (n, K, H, W),
the latter averaged over the places; of several outputs, the first is read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from equivariant.errors import InputError
from equivariant.outputs import first_scores
from equivariant.ties import widened

Proxy = Callable[[Any], Tensor]


def entropy(logits: Any) -> Tensor:
    """Return the entropy of softmax(logits), in nats."""
    log_p = _wide(logits).log_softmax(1)
    return _over_places(-(log_p.exp() * log_p.clamp(min=torch.finfo(log_p.dtype).min)).sum(1))


def max_probability(logits: Any) -> Tensor:
    """Return -log of the largest probability: the same order as -max softmax(logits), but it saturates later."""
    return _over_places(-_wide(logits).log_softmax(1).amax(1))


def margin(logits: Any) -> Tensor:
    """Return 1 - (p₁ - p₂), how little the likeliest class is ahead of the next in softmax(logits).

    It is a sum of small probabilities, so it does not saturate.
    """
    p = _wide(logits).softmax(1)
    others = p.scatter(1, p.argmax(1, keepdim=True), 0.0)
    return _over_places(others.sum(1) + others.amax(1))


class Similarity(nn.Module):
    """-max_k cos(feature, reference_k), for features (n, D) and references (K, D), say CLIP's class prompts."""

    references: Tensor

    def __init__(self, references: Tensor) -> None:
        super().__init__()
        if references.ndim != 2 or not references.is_floating_point():
            raise InputError(f"references are floating-point (K, D), not {references.dtype} {tuple(references.shape)}")
        self.register_buffer("references", functional.normalize(references, dim=1))

    def forward(self, features: Any) -> Tensor:
        """Return the loss of each feature, (n,)."""
        features = first_scores(features)
        return -(functional.normalize(features, dim=1) @ self.references.to(features.dtype).T).amax(1)


PROXIES: dict[str, Proxy] = {"entropy": entropy, "margin": margin, "max_probability": max_probability}


def as_proxy(proxy: str | Proxy) -> Proxy:
    """Return the proxy loss by that name, or the callable itself; raises InputError for any other."""
    if callable(proxy):
        return proxy
    if proxy in PROXIES:
        return PROXIES[proxy]
    raise InputError(
        f"unknown proxy loss {proxy!r}: choose {', '.join(map(repr, PROXIES))}, Similarity(references), or give a "
        f"function from the model's output to one loss per view, (n,)"
    )


def _wide(logits: Any) -> Tensor:
    logits = logits if isinstance(logits, Tensor) else first_scores(logits)
    if logits.is_complex():
        raise InputError(f"this proxy loss needs class scores, not numbers of {logits.dtype}: give your own")
    if logits.ndim < 2:
        got = tuple(logits.shape)
        raise InputError(f"this proxy loss needs class scores (n, K, …), but the model returned {got}: give your own")
    return widened(logits)


def _over_places(losses: Tensor) -> Tensor:
    return losses.flatten(1).mean(1) if losses.ndim > 1 else losses
