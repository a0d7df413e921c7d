"""Networks that are cut in two by themselves give what they give whole, and choose views early."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.models import mlp_mixer
from torch import Tensor, nn

import equivariant as eq
from equivariant.parts.cutting import StagedChain, StagedRotaryViT, staged
from tests.support.zoo import Micro, convnext, mobilenet, resnet, vit

SMALL = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 3, "num_heads": 2, "num_classes": 4}


def swin() -> nn.Module:
    from timm.models.swin_transformer import SwinTransformer

    return SwinTransformer(img_size=32, window_size=4, embed_dim=12, depths=(1, 2), num_heads=(2, 2), num_classes=4)


#: how to build it, side of its images, how it is cut, and after how many blocks it has what width
NETWORKS: dict[str, tuple[Callable[[], nn.Module], int, Any, dict[int, int]]] = {
    "ViT": (lambda: vit(depth=3), 16, eq.StagedViT, {1: 16, 2: 16}),
    "EVA-02": (lambda: timm.create_model("eva02_tiny_patch14_224", **SMALL), 32, StagedRotaryViT, {1: 24, 2: 24}),
    "DINOv3": (lambda: timm.create_model("vit_small_patch16_dinov3", **SMALL), 32, StagedRotaryViT, {1: 24, 2: 24}),
    "Swin": (swin, 32, StagedChain, {1: 12}),
    "ConvNeXt": (convnext, 32, StagedChain, {1: 8, 2: 8, 3: 8}),
    "ResNet": (resnet, 33, StagedChain, {1: 8, 3: 8}),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_in_two_parts_is_the_network(name: str) -> None:
    build, side, kind, widths = NETWORKS[name]
    torch.manual_seed(0)
    model = build().eval()
    for parameter in model.parameters():  # some heads and scales start at zero, which would hide any difference
        nn.init.normal_(parameter, std=0.1)
    x = torch.randn(2, 3, side, side)
    for blocks, width in widths.items():
        cut = staged(model, blocks)
        assert type(cut) is kind
        assert cut.width == width
        with torch.no_grad():
            torch.testing.assert_close(cut(x), model(x), rtol=1e-4, atol=1e-5)
            assert eq.FeatureScore(width)(cut.early(x)).shape == (2,)
        assert sum(p.numel() for p in cut.parameters()) == sum(p.numel() for p in model.parameters())
    with pytest.raises(eq.InputError, match=f"blocks={max(widths) + 9} must be from 1"):
        staged(model, max(widths) + 9)


@pytest.mark.parametrize("name", ["EVA-02", "Swin", "ResNet"])
def test_it_chooses_views_after_its_first_stages_and_stays_exact(name: str) -> None:
    build, side, _, _ = NETWORKS[name]
    wrapper = eq.PrunedOrbit(staged(build().double().eval(), 1), "D4").double().eval()
    nn.init.normal_(wrapper.score.layers[-1].weight)
    x = torch.randn(2, 3, side, side).double()
    assert ((wrapper.orbit_weights(x) > 0).sum(0) == 1).all()
    eq.assert_equivariant(wrapper, "D4", x)


def test_rotary_positions_of_another_size_are_those_of_a_square() -> None:
    model = timm.create_model("vit_small_patch16_dinov3", **SMALL).eval()
    cut, x = staged(model, 1), torch.randn(1, 3, 48, 48)
    torch.testing.assert_close(cut(x), model(x))
    with pytest.raises(eq.InputError, match="24 patches are no square"):
        cut(torch.randn(1, 3, 32, 48))


class Aside(nn.Module):
    """Adds something between its modules."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x) + 1)


def test_what_cannot_be_cut_says_why() -> None:
    for model in (Aside(), mobilenet()):
        with pytest.raises(eq.InputError, match=r"lacks .*_pos_embed.*; it is more than one module after.*StagedPair"):
            staged(model, 1)
    with pytest.raises(eq.InputError, match=r"cannot be tried on \(1, 3, 64, 64\)"):
        staged(Micro(), 1)


FAMILIES = [
    "vit_tiny_patch16_224", "deit_tiny_patch16_224", "eva02_tiny_patch14_224", "vit_small_patch16_dinov3",
    "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256", "convnext_atto", "convnextv2_atto", "resnet18",
    "resnet50", "regnetx_002", "efficientnet_b0", "mobilenetv3_small_050", "mobilenetv2_050", "densenet121", "vgg11",
    "pvt_v2_b0", "mobilevit_xxs", "maxvit_tiny_rw_224", "poolformer_s12", "davit_tiny", "edgenext_xx_small",
    "efficientformer_l1", "focalnet_tiny_srf", "mixer_s16_224", "repvgg_a0", "rexnet_100", "ghostnet_050",
    "inception_v3", "tiny_vit_5m_224", "fastvit_t8", "nfnet_f0",
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_families_of_timm(name: str) -> None:
    model = timm.create_model(name).eval()
    cut, size = staged(model, 1), model.pretrained_cfg["input_size"]
    x = torch.rand(1, *size)
    with torch.no_grad():
        torch.testing.assert_close(cut(x), model(x), rtol=1e-3, atol=1e-4)
        assert eq.FeatureScore(cut.width)(cut.early(x)).shape == (1,)


def test_blocks_that_change_nothing_yet_are_not_missed() -> None:
    torch.manual_seed(0)
    parts: Any = {"block_layer": mlp_mixer.ResBlock, "norm_layer": mlp_mixer.Affine, "mlp_ratio": 4}  # a ResMLP
    model = mlp_mixer.MlpMixer(4, img_size=64, patch_size=16, num_blocks=4, embed_dim=24, **parts)
    cut = staged(model.eval(), 1)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.3)
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(cut(x), model(x), rtol=1e-4, atol=1e-5)
