"""Compressing: factors in closed form, distillation, sizes, and what is refused."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from continual.backbones.factored import Factored, linear_layers
from continual.backbones.joined import side_by_side
from continual.backbones.loading import Backbone, assemble, create, load_backbone, save_backbone
from continual.backbones.recipes import Compressed
from continual.errors import BackboneError, InputError, LearningError
from continual.resizing import distilling
from continual.resizing.compressing import Inputs, compressed, factors, inputs, likeness, put_factors, sizes
from continual.resizing.distilling import TokenStates, unlikeness
from continual.resizing.images import Unlabelled
from continual.testing import coloured_squares, tiny_backbone, tiny_convnet

IMAGES = coloured_squares(range(8), 4)[0]
OTHERS = coloured_squares(range(20, 28), 4, seed=3)[0]


def prepared(backbone: Backbone, images: Tensor = OTHERS) -> Tensor:
    view = backbone.preprocessing.evaluation()
    return torch.stack([view(image) for image in images])


def drawn(rows: int, width: int, count: int = 400) -> tuple[Tensor, Tensor, Inputs]:
    """A weight, inputs of a layer (count, width) that vary unevenly around a mean, and what is known of them."""
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(count, width, generator=draw, dtype=torch.float64) * torch.logspace(0, -2, width) + 0.5
    x = x @ torch.linalg.qr(torch.randn(width, width, generator=draw, dtype=torch.float64))[0]
    return torch.randn(rows, width, generator=draw), x, Inputs(x.mean(0), x.mT @ x / len(x))


def error(w: Tensor, bias: Tensor | None, found: tuple[Tensor, Tensor, Tensor | None], x: Tensor) -> float:
    up, down, moved = (None if t is None else t.double() for t in found)
    assert up is not None
    assert down is not None
    mine = x @ (up @ down).mT + (0 if moved is None else moved)
    return float(((x @ w.double().mT + (0 if bias is None else bias.double()) - mine) ** 2).sum())


def test_full_rank_is_the_layer_and_plain_factors_are_those_of_the_singular_values() -> None:
    w, _, entering = drawn(12, 8)
    for known in (None, entering):
        up, down, _ = factors(w, None, 8, known)
        torch.testing.assert_close(up @ down, w, atol=1e-4, rtol=1e-4)
    up, down, _ = factors(w, None, 3)
    u, s, vt = torch.linalg.svd(w)
    torch.testing.assert_close(up @ down, u[:, :3] * s[:3] @ vt[:3], atol=4e-5, rtol=0)
    torch.testing.assert_close(up.norm(dim=0), down.norm(dim=1))  # each has the root of a singular value


def test_a_weight_of_low_rank_loses_nothing() -> None:
    w, _, entering = drawn(12, 8)
    low = w[:, :2] @ torch.randn(2, 8, generator=torch.Generator().manual_seed(1))
    for known in (None, entering):
        up, down, _ = factors(low, None, 2, known)
        torch.testing.assert_close(up @ down, low, atol=1e-4, rtol=1e-3)


@pytest.mark.parametrize("rank", [1, 2, 4, 6])
def test_factors_by_inputs_change_outputs_less_than_plain_ones_and_less_with_the_bias(rank: int) -> None:
    w, x, entering = drawn(12, 8)
    bias = torch.linspace(-1, 1, 12)
    plain = error(w, bias, factors(w, bias, rank), x)
    without = error(w, None, factors(w, None, rank, entering), x)
    aware = error(w, bias, factors(w, bias, rank, entering), x)
    assert aware <= without * 1.001
    assert aware < 0.9 * plain
    # By Eckart and Young, no other factors do better on these inputs: a gradient finds none.
    up, down, moved = (t.double().requires_grad_() for t in factors(w, bias, rank, entering) if t is not None)
    loss = ((x @ w.double().mT + bias.double() - x @ (up @ down).mT - moved) ** 2).mean()
    for gradient in torch.autograd.grad(loss, [up, down, moved]):
        assert gradient.abs().max() < 1e-2 * loss.detach().sqrt()


def test_what_enters_the_layers_is_summed_over_all_tokens() -> None:
    backbone = tiny_backbone()
    data = Unlabelled(IMAGES, backbone)
    found = inputs(backbone.frozen.network, data, batch_size=7)
    seen: dict[str, list[Tensor]] = {}
    network: Any = copy.deepcopy(backbone.frozen.network)
    for name, layer in linear_layers(network).items():
        layer.register_forward_pre_hook(lambda _, given, name=name: seen.setdefault(name, []).append(given[0]))
    with torch.no_grad():
        network.forward_features(prepared(backbone, IMAGES))
    assert found.keys() == seen.keys()
    for name, own in found.items():
        x = torch.cat(seen[name]).flatten(0, -2).double()
        torch.testing.assert_close(own.mean, x.mean(0), atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(own.moment, x.mT @ x / len(x), atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(own.covariance, torch.cov(x.mT, correction=0), atol=1e-4, rtol=1e-3)


def test_at_ratio_one_it_is_the_same_function() -> None:
    backbone = tiny_backbone()
    made = compressed(backbone, IMAGES, ratio=1, epochs=3)
    x = prepared(backbone)
    assert torch.equal(made.frozen.features(x), backbone.frozen.features(x))
    assert made.sha256 == backbone.sha256
    assert made.recipe == Compressed(parent=backbone.sha256, ratio=1, ranks={})


@pytest.mark.parametrize("ratio", [1.25, 2, 3.7])
def test_sizes_are_as_asked(ratio: float) -> None:
    backbone = tiny_backbone()
    found = sizes(backbone, ratio)
    made = compressed(backbone, IMAGES, ratio=ratio, epochs=0)
    network = made.frozen.network
    factored = {name: m for name, m in network.named_modules() if isinstance(m, Factored)}
    assert found.ranks == {name: m.down.out_features for name, m in factored.items()}
    assert set(factored) == set(linear_layers(backbone.frozen.network))
    assert len(factored) == 8
    numbers = sum(m.down.weight.numel() + m.up.weight.numel() for m in factored.values())
    assert numbers == found.layers_after
    assert found.layers_before / ratio * 0.85 < numbers <= found.layers_before / ratio
    assert sum(p.numel() for p in network.parameters()) == found.after
    assert made.width == backbone.width
    assert made.depth == backbone.depth


def test_a_factored_network_is_the_network_of_the_products() -> None:
    backbone = tiny_backbone()
    made = compressed(backbone, IMAGES, epochs=0)
    dense: Any = copy.deepcopy(backbone.frozen.network)
    for name, module in made.frozen.network.named_modules():
        if isinstance(module, Factored):
            layer = dense.get_submodule(name)
            assert isinstance(layer, nn.Linear)
            layer.weight.data, layer.bias.data = module.weight.data, module.up.bias.data
    whole = assemble(dense, backbone.name, backbone.model_args).frozen
    x = prepared(backbone)
    torch.testing.assert_close(made.frozen.features(x), whole.features(x), atol=1e-5, rtol=1e-4)
    for blocks in (1, 2):
        torch.testing.assert_close(
            made.frozen.block_tokens(x, blocks), whole.block_tokens(x, blocks), atol=1e-4, rtol=1e-3
        )


def test_factors_by_inputs_give_better_features_than_plain_ones() -> None:
    backbone = tiny_backbone()
    x, ranks = prepared(backbone), sizes(backbone, 2).ranks
    entering = inputs(backbone.frozen.network, Unlabelled(IMAGES, backbone))
    alike = []
    for known in ({}, entering):
        network = copy.deepcopy(backbone.frozen.network)
        put_factors(network, ranks, known)
        alike.append(likeness(assemble(network, backbone.name, backbone.model_args).frozen, backbone.frozen, [x]))
    assert alike[0] < alike[1] < 1


def test_distillation_lowers_the_error_of_images_that_it_has_not_seen() -> None:
    backbone = tiny_backbone()
    x = prepared(backbone)
    before, after = (compressed(backbone, IMAGES, ratio=2, epochs=epochs, lr=1e-3) for epochs in (0, 30))
    wanted = TokenStates(backbone.frozen.network)(x)
    errors = [float(unlikeness(TokenStates(made.frozen.network)(x), wanted)) for made in (before, after)]
    assert errors[1] < 0.7 * errors[0]
    assert likeness(after.frozen, backbone.frozen, [x]) > likeness(before.frozen, backbone.frozen, [x])
    assert not any(p.requires_grad for p in after.frozen.parameters())


def test_the_seed_decides_everything_and_nothing_else_is_changed() -> None:
    backbone = tiny_backbone()
    before, state = backbone.sha256, torch.get_rng_state()
    first, again = (compressed(backbone, IMAGES, ratio=2, epochs=1, seed=4) for _ in range(2))
    other = compressed(backbone, IMAGES, ratio=2, epochs=1, seed=5)
    assert first.sha256 == again.sha256 != other.sha256
    assert torch.equal(torch.get_rng_state(), state)
    assert tiny_backbone().sha256 == before == assemble(backbone.frozen.network, backbone.name).sha256
    assert not any(p.requires_grad for p in backbone.frozen.parameters())


def test_it_says_how_far_it_is() -> None:
    said: dict[str, tuple[int, int]] = {}
    compressed(
        tiny_backbone(),
        IMAGES,
        ratio=2,
        epochs=2,
        progress=lambda stage, done, total, _: said.update({stage: (done, total)}),
    )
    assert said == {"collecting features": (32, 32), "factoring weights": (8, 8), "distilling": (4, 4)}


@pytest.mark.parametrize("ratio", [0.5, 0, -1, 1000, float("nan"), float("inf")])
def test_a_ratio_out_of_its_range_is_refused(ratio: float) -> None:
    with pytest.raises(InputError, match=r"how many times smaller the layers become, from 1 to 16, got"):
        compressed(tiny_backbone(), IMAGES, ratio=ratio)


def test_what_cannot_be_compressed_is_refused() -> None:
    backbone = tiny_backbone()
    with pytest.raises(InputError, match="19 images are too few: give 20"):
        compressed(backbone, IMAGES[:19])
    with pytest.raises(InputError, match="epochs are 0 or more"):
        compressed(backbone, IMAGES, epochs=-1)
    with pytest.raises(BackboneError, match=r"this ResNet cannot be compressed.*--int8"):
        compressed(tiny_convnet(), IMAGES)
    with pytest.raises(BackboneError, match="compressed one by one"):
        compressed(side_by_side([backbone, tiny_convnet()]), IMAGES)
    with pytest.raises(BackboneError, match="is compressed already"):
        compressed(compressed(backbone, IMAGES, epochs=0), IMAGES)
    arguments = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 1, "num_heads": 2}
    eva = assemble(create("eva02_tiny_patch14_224", arguments), "eva02_tiny_patch14_224", arguments)
    with pytest.raises(BackboneError, match="this Eva cannot be compressed"):
        compressed(eva, IMAGES)


def test_a_distillation_that_diverges_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distilling, "unlikeness", lambda *_: torch.tensor(float("nan"), requires_grad=True))
    with pytest.raises(LearningError, match="the distillation diverged: lower lr"):
        compressed(tiny_backbone(), IMAGES, epochs=1)


def test_its_file_gives_it_back_bit_for_bit(tmp_path: Path) -> None:
    """With its preprocessing and recipe, and at another image size."""
    backbone = assemble(
        tiny_backbone().frozen.network, "vit_tiny_patch16_224", tiny_backbone().model_args, mean=(0.1, 0.2, 0.3)
    )
    made = save_backbone(compressed(backbone, IMAGES, ratio=2, epochs=1), tmp_path / "small.safetensors")
    again = load_backbone(weights=tmp_path / "small.safetensors")
    assert again.sha256 == made.sha256
    assert again.recipe == made.recipe
    assert again.preprocessing == backbone.preprocessing
    assert again.describe() == {**made.describe(), "weights_fit": str(again.fit)}
    assert (tmp_path / "small.safetensors").stat().st_size < 4 * sizes(backbone, 2).after + 10_000
    larger = load_backbone(weights=tmp_path / "small.safetensors", img_size=24, mean=(0.5, 0.5, 0.5))
    assert larger.frozen.image_size == (24, 24)
    assert larger.preprocessing.mean == (0.5, 0.5, 0.5)


def test_half_is_half_the_bytes_and_the_same_bits_again(tmp_path: Path) -> None:
    whole, half = (compressed(tiny_backbone(), IMAGES, epochs=0, half=half) for half in (False, True))
    for name, made in {"whole": whole, "half": half}.items():
        save_backbone(made, tmp_path / name)
        assert load_backbone(weights=tmp_path / name).sha256 == made.sha256
    assert (tmp_path / "half").stat().st_size < 0.65 * (tmp_path / "whole").stat().st_size
    x = prepared(whole)
    torch.testing.assert_close(half.frozen.features(x), whole.frozen.features(x), atol=2e-2, rtol=0)


def test_numbers_that_16_bits_hold_are_written_so(tmp_path: Path) -> None:
    backbone = tiny_backbone()
    save_backbone(backbone, tmp_path / "32.safetensors")
    for parameter in backbone.frozen.parameters():
        parameter.data = parameter.half().float()
    rounded = assemble(backbone.frozen.network, backbone.name, backbone.model_args)
    save_backbone(rounded, tmp_path / "16.safetensors")
    sizes_ = [(tmp_path / f"{bits}.safetensors").stat().st_size for bits in (16, 32)]
    assert sizes_[0] < 0.6 * sizes_[1]
    assert load_backbone(weights=tmp_path / "16.safetensors").sha256 == rounded.sha256
    with pytest.raises(BackboneError, match="save each of its parts"):
        save_backbone(side_by_side([backbone, tiny_convnet()]), tmp_path / "two.safetensors")
