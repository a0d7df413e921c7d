"""Growing: the operator, growth without loss, copies, training, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from continual.backbones.growth import Cores, mapped, of_rank, starting
from continual.backbones.joined import side_by_side
from continual.backbones.loading import Backbone, assemble, create, load_backbone, save_backbone
from continual.backbones.recipes import Grown
from continual.errors import BackboneError, InputError
from continual.resizing.compressing import compressed
from continual.resizing.distilling import TokenStates, unlikeness
from continual.resizing.growing import by_cores, grown
from continual.seeding import seeded
from continual.testing import TINY_ARGS, coloured_squares, tiny_backbone, tiny_convnet

IMAGES = coloured_squares(range(8), 4)[0]


def prepared(backbone: Backbone) -> Tensor:
    view = backbone.preprocessing.evaluation()
    return torch.stack([view(image) for image in IMAGES[::4]])


def spiced(**arguments: Any) -> Backbone:
    """A ViT whose norms, biases and scales are not what they begin with."""
    given = {**TINY_ARGS, "depth": 3, **arguments}
    with seeded(0, "spiced"):
        network = create("vit_tiny_patch16_224", given)
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn(parameter.shape)
    return assemble(network, "vit_tiny_patch16_224", given)


KINDS: list[dict[str, Any]] = [
    {},
    {"init_values": 0.1, "reg_tokens": 2, "qk_norm": True},
    {"global_pool": "avg", "class_token": False, "qkv_bias": False, "pre_norm": True, "mlp_ratio": 2},
]


@pytest.mark.parametrize("arguments", KINDS)
def test_identity_cores_return_the_model(arguments: dict[str, Any]) -> None:
    network: Any = spiced(**arguments).frozen.network
    cores = starting(range(32), range(3), 32, 3, network.blocks[0].mlp.fc1.out_features)
    state = network.state_dict()
    found = mapped(state, cores)
    assert list(found) != []
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], value) for name, value in state.items())
    wide = mapped(state, of_rank(cores, 3, 0.0, torch.Generator()))
    assert all(torch.allclose(wide[name], value, atol=1e-6) for name, value in state.items())


@pytest.mark.parametrize("arguments", KINDS)
@pytest.mark.parametrize(("width", "depth"), [(64, 3), (96, 3), (32, 5), (64, 7)])
def test_lossless_growth_is_the_same_function(arguments: dict[str, Any], width: int, depth: int) -> None:
    backbone = spiced(**arguments)
    large = grown(backbone, width=width, depth=depth)
    assert (large.width, large.depth) == (width, depth)
    assert large.frozen.network.blocks[0].attn.head_dim == 16
    assert large.recipe == Grown(parent=backbone.sha256, how="lossless")
    x = prepared(backbone)
    wanted = backbone.frozen.features(x).repeat(1, width // 32)
    torch.testing.assert_close(large.frozen.features(x), wanted, atol=1e-5, rtol=1e-4)


def test_every_number_of_a_lossless_growth_learns() -> None:
    """Copies are told apart: their gradients differ, and blocks that are silent get one."""
    large: Any = grown(spiced(), width=64, depth=5).frozen
    network = large.network.requires_grad_(True)
    network(prepared(spiced())).square().sum().backward()
    gradient = network.blocks[0].mlp.fc1.weight.grad
    assert not torch.allclose(gradient[:32], gradient[32:64], rtol=1e-2)
    silent = [block for block in network.blocks if not block.mlp.fc2.weight.any()]
    assert len(silent) == 2
    assert all(block.mlp.fc2.weight.grad.any() and block.attn.proj.weight.grad.any() for block in silent)


@pytest.mark.parametrize("arguments", KINDS)
def test_copied_width_is_the_same_function_and_copied_blocks_are_not(arguments: dict[str, Any]) -> None:
    backbone = spiced(**arguments)
    x = prepared(backbone)
    wanted = backbone.frozen.features(x).repeat(1, 2)
    wide = grown(backbone, width=64, how="duplicate").frozen.features(x)
    torch.testing.assert_close(wide, wanted, atol=1e-5, rtol=1e-4)
    deep = grown(backbone, width=64, depth=6, how="duplicate").frozen.features(x)
    assert (deep - wanted).abs().max() > 1e-2


def test_the_operator_reproduces_copied_width() -> None:
    network: Any = spiced().frozen.network
    source = [number % 32 for number in range(64)]
    cores = starting(source, range(3), 32, 3, 128)
    large: Any = grown(spiced(), width=64, how="duplicate").frozen.network
    for made in (cores, of_rank(cores, 2, 0.0, torch.Generator())):
        found = mapped(network.state_dict(), made)
        assert all(torch.allclose(value, found[name], atol=1e-5) for name, value in large.state_dict().items())


def test_the_operator_is_the_ring_of_the_paper() -> None:
    """Against the sum written at once, of random cores."""
    draw = torch.Generator().manual_seed(0)
    m = torch.randn(3, 4, 5, 2, generator=draw)
    shapes = [(2, 3, 6, 2), (2, 5, 7, 2), (2, 2, 3, 2), (2, 4, 8, 2)]
    cores = Cores(*(torch.randn(shape, generator=draw) for shape in shapes))
    wanted = torch.einsum("biol,pbcq,qons,slkt,tijp->cjnk", m, *cores.tensors)
    torch.testing.assert_close(cores.map_slices(m), wanted, atol=1e-3, rtol=1e-4)


def test_gradients_reach_all_four_cores() -> None:
    backbone = spiced()
    cores = of_rank(starting([n % 32 for n in range(64)], [0, 1, 2, 0], 32, 3, 128), 2, 0.01, torch.Generator())
    cores = Cores(*(core.requires_grad_() for core in cores.tensors))
    large = create("vit_tiny_patch16_224", {**TINY_ARGS, "embed_dim": 64, "num_heads": 4, "depth": 4})
    states = by_cores(TokenStates(large), backbone.frozen.network.state_dict(), cores, prepared(backbone))
    assert len(states) == 5
    states[-1].square().sum().backward()
    assert all(core.grad is not None and core.grad.abs().sum() > 0 for core in cores.tensors)


@pytest.mark.parametrize(("how", "rank"), [("mango", 1), ("mango", 2), ("duplicate", 1)])
def test_training_brings_it_nearer_to_its_parent(how: Any, rank: int) -> None:
    backbone = spiced()
    x = prepared(backbone)
    errors = []
    for steps in (1, 40):
        large = grown(backbone, IMAGES, width=64, depth=6, how=how, steps=steps, rank=rank, lr=1e-3)
        wanted = TokenStates(backbone.frozen.network)(x)[-1].repeat(1, 1, 2)
        errors.append(float(unlikeness([TokenStates(large.frozen.network)(x)[-1]], [wanted])))
    assert errors[1] < 0.8 * errors[0]


def test_the_seed_decides_everything() -> None:
    given: dict[str, Any] = {"width": 64, "how": "mango", "steps": 2}
    backbone, state = tiny_backbone(), torch.get_rng_state()
    first, again, other = (grown(backbone, IMAGES, seed=seed, **given) for seed in (1, 1, 2))
    assert first.sha256 == again.sha256 != other.sha256
    assert torch.equal(torch.get_rng_state(), state)
    assert backbone.sha256 == tiny_backbone().sha256


def test_its_file_gives_it_back_bit_for_bit_and_it_grows_on_or_is_compressed(tmp_path: Path) -> None:
    made = save_backbone(grown(spiced(), width=64, depth=4), tmp_path / "big.safetensors")
    again = load_backbone(weights=tmp_path / "big.safetensors")
    assert again.sha256 == made.sha256
    assert again.recipe == made.recipe
    assert grown(again, width=128).recipe == Grown(parent=made.sha256, how="lossless")
    assert compressed(again, IMAGES, epochs=0).depth == 4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"width": 40}, "heads are 16 wide, and 40 is no multiple: take 32 or 48"),
        ({"width": 48}, "48 is no multiple: take 32 or 64"),
        ({"width": 16}, "2 blocks of width 32: ask for more, got 2 of 16"),
        ({}, "ask for more, got 2 of 32"),
        ({"width": 64, "depth": 1}, "ask for more, got 1 of 64"),
        ({"width": 64, "heads": 2}, "makes 4 of them in 64, not 2"),
        ({"width": 64, "how": "magic"}, "grown by lossless, duplicate, mango, not by 'magic'"),
        ({"width": 64, "steps": 3}, "leave steps out"),
        ({"width": 64, "how": "mango"}, "give steps"),
        ({"width": 64, "how": "mango", "steps": 3}, "steps need images"),
        ({"width": 64, "how": "duplicate", "rank": 2}, "a rank is of how='mango'"),
        ({"width": 64, "how": "mango", "rank": 0}, "the rank 1 or more"),
        ({"width": 64, "how": "duplicate", "steps": 3, "images": IMAGES[:3]}, "3 images are too few"),
    ],
)
def test_shapes_and_steps_that_make_no_sense_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        grown(tiny_backbone(), **given)


def test_a_width_between_is_for_growth_that_changes_the_function() -> None:
    assert grown(tiny_backbone(), width=48, how="duplicate").width == 48


def test_networks_of_other_families_are_refused() -> None:
    arguments = {**TINY_ARGS, "depth": 1}
    others = [
        assemble(create("eva02_tiny_patch14_224", arguments), "eva02_tiny_patch14_224", arguments),
        assemble(create("vit_tiny_patch16_224", {**TINY_ARGS, "scale_attn_norm": True}), "vit_tiny_patch16_224"),
        tiny_convnet(),
        compressed(tiny_backbone(), IMAGES, epochs=0),
    ]
    for backbone in others:
        with pytest.raises(BackboneError, match=r"cannot be grown: use a plain ViT"):
            grown(backbone, width=64)
    with pytest.raises(BackboneError, match="one by one"):
        grown(side_by_side([tiny_backbone(), tiny_convnet()]), width=64)
