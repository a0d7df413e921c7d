"""Attention for some tokens is timm's own, by whatever operations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from timm.models.vision_transformer import Attention
from torch import Tensor, nn

from continual.backbones import attention
from continual.backbones.attention import attend
from continual.seeding import generator, seeded

X = torch.randn(3, 7, 24, generator=generator(0, "tokens"))


def made(**options: Any) -> Any:
    with seeded(0, "attention"):
        return Attention(24, num_heads=3, norm_layer=nn.LayerNorm, **{"qkv_bias": True, **options}).eval()


@pytest.mark.parametrize("read", [slice(None), slice(0, 1), slice(1, 4)])
@pytest.mark.parametrize("options", [{}, {"qkv_bias": False}, {"qk_norm": True}, {"attn_head_dim": 4}])
def test_some_tokens_hear_what_they_would_among_all(options: dict[str, Any], read: slice) -> None:
    module = made(**options)
    torch.testing.assert_close(attend(module, X, read), module(X)[:, read])


def test_a_few_tokens_ask_without_keys_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    module, asked = made(), 0
    own = attention._without_keys

    def counting(*arguments: Any) -> Tensor:
        nonlocal asked
        asked += 1
        return own(*arguments)

    monkeypatch.setattr(attention, "_without_keys", counting)
    whole = X.clone().requires_grad_()
    module(whole)[:, :1].square().sum().backward()
    part = X.clone().requires_grad_()
    attend(module, part, slice(0, 1)).square().sum().backward()
    assert asked == 1
    torch.testing.assert_close(part.grad, whole.grad)
    attend(module, X, slice(0, 5))  # too many of seven
    attend(made(qk_norm=True), X, slice(0, 1))
    with torch.autocast("cpu", torch.bfloat16):
        attend(module, X, slice(0, 1))
    assert asked == 1


def test_training_in_bfloat16_on_a_cpu_avoids_the_fused_operation(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing else does; gradients are those of float32, to the rounding of bfloat16."""
    module, fused = made(), 0
    own: Callable[..., Tensor] = torch.nn.functional.scaled_dot_product_attention

    def counting(*arguments: Any, **options: Any) -> Tensor:
        nonlocal fused
        fused += 1
        return own(*arguments, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", counting)
    exact = X.clone().requires_grad_()
    attend(module, exact).square().sum().backward()
    assert fused == 1
    rounded = X.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = attend(module, rounded)
        assert fused == 1
        with torch.no_grad():
            torch.testing.assert_close(attend(module, X), found, rtol=0.05, atol=0.02)
        assert fused == 2
    found.float().square().sum().backward()
    assert exact.grad is not None
    assert rounded.grad is not None
    assert (rounded.grad - exact.grad).norm() < 0.02 * exact.grad.norm()


def test_an_unknown_kind_is_asked_itself() -> None:
    class Other(Attention):
        def forward(self, x: Tensor, *arguments: Any, **options: Any) -> Tensor:
            return x + 1

    with seeded(0, "attention"):
        module = Other(24, num_heads=3)
    assert torch.equal(attend(module, X, slice(0, 2)), X[:, :2] + 1)
