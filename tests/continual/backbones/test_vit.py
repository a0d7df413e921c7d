"""The frozen takes timm's models apart exactly, for every family it accepts, and refuses the others."""

from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from timm.models import eva, vision_transformer
from torch import Tensor, nn

from continual.adapters.bank import shared
from continual.adapters.bottleneck import Bottleneck
from continual.backbones.vit import FrozenViT
from continual.errors import BackboneError
from continual.seeding import generator, seeded

TINY: dict[str, Any] = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}

WHOLE = Bottleneck(adapter_scale=1.0)

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "vit": ("vit_base_patch16_224", {}),
    "vit, average pooling": ("vit_base_patch16_224", {"global_pool": "avg", "class_token": False}),
    "deit, distilled": ("deit_tiny_distilled_patch16_224", {}),
    "deit3, layer scale": ("deit3_small_patch16_224", {}),
    "dinov2": ("vit_small_patch14_dinov2", {}),
    "dinov2, registers": ("vit_small_patch14_reg4_dinov2", {}),
    "clip, norm before the blocks": ("vit_base_patch32_clip_224", {}),
    "siglip, attention pooling": ("vit_base_patch16_siglip_224", {}),
    "siglip, average pooling": ("vit_base_patch16_siglip_gap_224", {}),
    "norms inside attention": ("vit_base_patch16_224", {"qk_norm": True, "scale_attn_norm": True}),
    "norm after each half": ("vit_base_patch16_224", {"block_fn": vision_transformer.ResPostBlock}),
    "eva02, rotary positions": ("eva02_tiny_patch14_224", {}),
    "eva, layer scale": ("eva_large_patch14_196", {"init_values": 0.1}),
    "eva, norm after each half": ("eva02_tiny_patch14_224", {"use_post_norm": True}),
    "eva, mixed rotary positions": ("vit_small_patch16_rope_mixed_224", {}),
    "dinov3": ("vit_small_patch16_dinov3", {}),
}


def tiny(name: str, **options: Any) -> Any:
    """A small model of a family, every weight random: a fresh layer scale or bias would hide a mistake."""
    with seeded(0, "model"):
        vit = timm.create_model(name, **{**TINY, **options})
    for key, parameter in vit.named_parameters():
        nn.init.normal_(parameter, std=0.3, generator=generator(0, key))
    return vit.eval()


@pytest.fixture(params=FAMILIES, ids=lambda name: name.replace(", ", "-").replace(" ", "_"))
def vit(request: pytest.FixtureRequest) -> Any:
    name, options = FAMILIES[request.param]
    return tiny(name, **options)


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 16, 16, generator=generator(0, "images"))


@pytest.fixture
def weights() -> dict[str, Tensor]:
    shapes = {"down_weight": (2, 4, 24), "down_bias": (2, 4), "up_weight": (2, 24, 4), "up_bias": (2, 24)}
    return {name: 0.5 * torch.randn(shape, generator=generator(0, name)) for name, shape in shapes.items()}


def test_features_are_the_models_own(vit: Any, images: Tensor) -> None:
    frozen = FrozenViT(vit)
    assert (frozen.depth, frozen.width, frozen.image_size) == (2, 24, (16, 16))
    with torch.no_grad():
        torch.testing.assert_close(frozen.features(images), vit(images), rtol=1e-4, atol=1e-5)


def test_block_tokens_are_what_the_models_own_blocks_give(vit: Any, images: Tensor) -> None:
    frozen, found = FrozenViT(vit), []
    hooks = [block.register_forward_hook(lambda *given: found.append(given[2])) for block in vit.blocks]
    with torch.no_grad():
        vit(images)
        for hook in hooks:
            hook.remove()
        place = vit.num_prefix_tokens
        ours, both, cut = (
            frozen.block_tokens(images, blocks, **options).unflatten(1, (blocks, -1, 24))
            for blocks, options in ((1, {}), (2, {}), (2, {"patches": False}))
        )
        assert torch.equal(frozen.block_tokens(images, 5), both.flatten(1))  # all, where there are fewer
    for block, tokens in enumerate(found):
        level = nn.functional.layer_norm(tokens, tokens.shape[-1:])
        mean = level[:, place:].mean(1)
        torch.testing.assert_close(both[:, block, -1], mean, rtol=1e-4, atol=1e-5)
        if place:
            torch.testing.assert_close(both[:, block, 0], level[:, 0], rtol=1e-4, atol=1e-5)
    assert both.shape == (3, 2, 1 + bool(place), 24)
    assert torch.equal(ours[:, 0], both[:, 1])
    assert torch.equal(cut, both[:, :, :1])


def test_adapters_read_between_attention_and_mlp_and_add_to_the_block(
    vit: Any, images: Tensor, weights: dict[str, Tensor]
) -> None:
    """Against the model's own forward, with hooks that put the adapters in from outside; the gradients as well."""
    for tensor in weights.values():
        tensor.requires_grad_()
    adapters, probe = (
        shared(WHOLE, weights),
        torch.randn(3, 24, generator=generator(0, "probe")),
    )
    ours = FrozenViT(vit).features(images, adapters)
    our_gradients = torch.autograd.grad((ours * probe).sum(), list(weights.values()))
    plain = vit(images)
    tokens: dict[int, Tensor] = {}
    for index, block in enumerate(vit.blocks):
        post_norm = isinstance(block, vision_transformer.ResPostBlock | eva.EvaBlockPostNorm)
        reader = block.mlp if post_norm else block.norm2
        reader.register_forward_pre_hook(lambda _, given, index=index: tokens.update({index: given[0]}))
        block.register_forward_hook(lambda _, given, out, index=index: out + adapters(index, tokens[index]))
    theirs = vit(images)
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    for mine, own in zip(
        our_gradients, torch.autograd.grad((theirs * probe).sum(), list(weights.values())), strict=True
    ):
        torch.testing.assert_close(mine, own, rtol=1e-3, atol=1e-4)
    assert (ours - plain).abs().max() > 0.01


def test_a_part_of_a_prefix_goes_on_as_its_images_would(vit: Any, images: Tensor, weights: dict[str, Tensor]) -> None:
    frozen, adapters, rows = FrozenViT(vit), shared(WHOLE, weights), torch.tensor([2, 0])
    with torch.no_grad():
        parts = frozen.features(frozen.stem(images)[rows], adapters)
        torch.testing.assert_close(parts, frozen.features(images, adapters)[rows], rtol=1e-5, atol=1e-6)


def test_the_first_mlp_is_run_once_for_all_stacks(vit: Any, images: Tensor, weights: dict[str, Tensor]) -> None:
    """Without gradients; with them it belongs to `features`, and what comes out has the same bits."""
    frozen, ran = FrozenViT(vit), []
    frozen.network.blocks[0].mlp.register_forward_hook(lambda *call: ran.append(len(call[2])))
    stacks = [shared(WHOLE, {name: k * tensor for name, tensor in weights.items()}) for k in (1.0, 2.0)]
    apart = frozen.stem(images)
    with torch.no_grad():
        assert ran == []
        expected = [frozen.features(apart, stack) for stack in stacks]
        assert ran == [3, 3]
        prefix = frozen.stem(images)
        assert all(torch.equal(frozen.features(prefix, a), b) for a, b in zip(stacks, expected, strict=True))
    assert ran == [3, 3, 3]


@pytest.mark.parametrize("prompts", [0, 2])
def test_after_the_last_attention_only_tokens_that_are_read_go_on(prompts: int, images: Tensor) -> None:
    frozen, seen = FrozenViT(tiny("vit_base_patch16_224")), []
    vit: Any = frozen.network
    added = torch.randn(3, prompts, 24, generator=generator(1))
    tokens = vit._pos_embed(vit.patch_embed(images))
    whole = vit.norm(vit.blocks(torch.cat([tokens[:, :1], added, tokens[:, 1:]], 1)))
    expected = whole[:, 1:3].mean(1) if prompts else whole[:, 0]
    vit.blocks[-1].mlp.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    for gradients in (True, False):
        with torch.set_grad_enabled(gradients):
            found = frozen.features(frozen.stem(images, added if prompts else None))
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    assert seen == [max(prompts, 1)] * 2


def test_it_is_frozen_and_stays_in_evaluation_mode(images: Tensor, weights: dict[str, Tensor]) -> None:
    frozen = FrozenViT(tiny("vit_base_patch16_224", proj_drop_rate=0.5, drop_path_rate=0.5))
    assert not any(p.requires_grad for p in frozen.parameters())
    before = frozen.features(images)
    frozen.train()
    assert not any(module.training for module in frozen.modules())
    assert torch.equal(frozen.features(images), before)
    weights["up_bias"].requires_grad_()
    frozen.features(images, shared(Bottleneck(adapter_scale=0.1), weights)).sum().backward()
    assert weights["up_bias"].grad is not None
    assert all(p.grad is None for p in frozen.parameters())


def test_double_precision_stays_and_half_comes_back_as_float(images: Tensor) -> None:
    frozen = FrozenViT(tiny("vit_base_patch16_224"))
    with torch.autocast("cpu", torch.bfloat16):
        assert frozen.features(images).dtype == torch.float32
    assert frozen.double().features(images.double()).dtype == torch.float64


@pytest.mark.parametrize(
    ("name", "options", "kind"),
    [
        ("resnet10t", {}, "ResNet"),
        ("swin_tiny_patch4_window7_224", {"img_size": 28}, "SwinTransformer"),
        ("vit_small_patch16_18x2_224", TINY, "ParallelThingsBlock"),
        ("vit_base_patch16_224", {**TINY, "block_fn": vision_transformer.ParallelScalingBlock}, "ParallelScalingBlock"),
    ],
)
def test_other_models_are_refused_by_name(name: str, options: dict[str, Any], kind: str) -> None:
    with pytest.raises(BackboneError, match=f"(?s){kind}.*use models whose blocks are"):
        FrozenViT(timm.create_model(name, **{**options, "num_classes": 0}))


def test_a_model_that_it_would_not_reproduce_is_refused() -> None:
    vit = tiny("vit_base_patch16_224")
    own = vit.forward_features
    vit.forward_features = lambda x: own(x) + 1
    with pytest.raises(BackboneError, match="does not give its own features"):
        FrozenViT(vit)
