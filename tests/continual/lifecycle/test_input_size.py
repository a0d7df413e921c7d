"""The input's size as the plan says it, and its cost: the multiplications that torch counts."""

from __future__ import annotations

import timm
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from continual.backbones.loading import Backbone, assemble
from continual.lifecycle import input_size
from continual.testing import tiny_convnet

NAME = "vit_tiny_patch16_224"
ARGUMENTS = {"patch_size": 14, "embed_dim": 48, "depth": 3, "num_heads": 3, "num_classes": 0}


def made(side: int) -> Backbone:
    with torch.random.fork_rng():
        return assemble(timm.create_model(NAME, img_size=side, **ARGUMENTS), NAME)


def counted(side: int) -> int:
    blocks = made(side).frozen.network.blocks
    # Of attention that is not fused, torch counts the products.
    with FlopCounterMode(display=False) as flops, torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        blocks(torch.zeros(1, (side // 14) ** 2 + 1, 48))
    return int(flops.get_total_flops())


def test_the_share_of_the_work_is_what_torch_counts() -> None:
    whole = made(518)
    for side in (98, 224):
        assert abs(input_size.share(whole, side, 14) / (counted(side) / counted(518)) - 1) < 1e-6


def test_a_smaller_input_is_proposed_where_the_size_is_large_and_can_change() -> None:
    whole = made(518)
    said = input_size.words(whole, changeable=True)
    assert said.startswith("input: 518 x 518 px; --model-arg img_size=224 takes about ")
    assert "img_size=98 takes about" in said
    assert input_size.words(whole, changeable=False) == "input: 518 x 518 px"
    assert input_size.words(tiny_convnet(), changeable=True) == "input: 16 x 16 px"
