"""Checkpoints as people have them: prefixes, wrappers, heads, other channels; and what is refused, with names."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor

from continual.backbones.loading import Backbone, create, load_backbone
from continual.errors import BackboneError
from continual.seeding import generator
from continual.testing import TINY_ARGS, tiny_backbone

NAME = "vit_tiny_patch16_224"
CNN = {"img_size": 32, "layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]}


@pytest.fixture
def vit() -> Any:
    return create(NAME, TINY_ARGS).eval()


def read(state: Any, path: Path, name: str = NAME, **arguments: Any) -> Backbone:
    torch.save(state, path)
    return load_backbone(name, weights=path, **(arguments or TINY_ARGS))


def same(found: Backbone, network: Any, channels: int = 3) -> None:
    height, width = found.preprocessing.size
    images = torch.randn(2, channels, height, width, generator=generator(0))
    with torch.no_grad():
        torch.testing.assert_close(found.frozen.features(images), network.eval()(images))


def under(prefix: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {prefix + key: value for key, value in state.items()}


@pytest.mark.parametrize(
    "prefix", ["module.", "backbone.", "teacher.backbone.", "model.", "encoder.", "module.model.backbone.", "net.0."]
)
def test_any_prefix_is_found(vit: Any, tmp_path: Path, prefix: str) -> None:
    head = {f"{prefix.partition('.')[0]}.head.mlp.0.weight": torch.zeros(2, 2), "loss.center": torch.zeros(1)}
    found = read(under(prefix, vit.state_dict()) | head, tmp_path / "w.pth")
    same(found, vit)
    assert found.fit is not None
    assert found.fit.prefix == prefix
    assert found.fit.left_out
    assert str(found.fit).startswith(f"all {len(vit.state_dict())} tensors of the network found under '{prefix}'")


@pytest.mark.parametrize(
    "wrapper", ["state_dict", "model", "teacher", "student", "model_state_dict", "net", "model_ema", "backbone"]
)
@pytest.mark.parametrize("suffix", [".ckpt", ".tar", ".pth", ".PTH", ".pth.tar", ".bin", ".pt", ""])
def test_any_wrapper_and_suffix_is_opened(vit: Any, tmp_path: Path, wrapper: str, suffix: str) -> None:
    kept = {
        wrapper: under("module.", vit.state_dict()),
        "optimizer": {"state": {0: {"step": torch.tensor(1.0)}}, "param_groups": [{"lr": 0.1}]},
        "epoch": 3,
        "args": argparse.Namespace(lr=0.1, arch="vit"),
        "best_acc1": np.float64(0.5),
    }
    same(read(kept, tmp_path / f"w{suffix}"), vit)


def test_a_teacher_comes_before_its_student(vit: Any, tmp_path: Path) -> None:
    other = create(NAME, TINY_ARGS)
    both = {"student": under("backbone.", other.state_dict()), "teacher": under("backbone.", vit.state_dict())}
    same(read(both, tmp_path / "a.pth"), vit)
    flat = under("student.backbone.", other.state_dict()) | under("teacher.backbone.", vit.state_dict())
    same(read(flat, tmp_path / "b.pth"), vit)


def test_nested_wrappers_are_opened(vit: Any, tmp_path: Path) -> None:
    same(read({"model": {"state_dict": {"net": vit.state_dict()}}}, tmp_path / "w.ckpt"), vit)


def test_a_checkpoint_that_holds_itself_ends_in_an_error(tmp_path: Path) -> None:
    for name in ("model", "mine"):
        kept: dict[str, Any] = {}
        kept[name] = kept
        torch.save(kept, tmp_path / "w.pth")
        with pytest.raises(BackboneError, match=f"holds no weights .its parts are {name}"):
            load_backbone(NAME, weights=tmp_path / "w.pth", **TINY_ARGS)


def test_a_safetensors_file_under_another_suffix_is_known_by_its_content(vit: Any, tmp_path: Path) -> None:
    import safetensors.torch

    safetensors.torch.save_file(under("encoder.", vit.state_dict()), tmp_path / "w.bin")
    same(load_backbone(NAME, weights=tmp_path / "w.bin", **TINY_ARGS), vit)


def test_decoders_and_heads_are_left_out_but_blocks_are_not(vit: Any, tmp_path: Path) -> None:
    state = vit.state_dict()
    more = {"decoder_embed.weight": torch.zeros(1), "mask_token": torch.zeros(1), "projector.0.weight": torch.zeros(1)}
    same(read({"model": state | more}, tmp_path / "mae.pth"), vit)
    with pytest.raises(BackboneError, match=r"of whose \d+ tensors it has \d+: blocks\.2\.x is not part of the model"):
        read(under("model.", state | {"blocks.2.x": torch.zeros(1)}), tmp_path / "deep.pth")


def test_a_file_of_another_network_is_refused_with_names(tmp_path: Path) -> None:
    other = timm.create_model("resnet18", num_classes=0)
    with pytest.raises(BackboneError, match=r"of whose 30 tensors it has 0: cls_token is missing; .* and \d+ more"):
        read(other.state_dict(), tmp_path / "w.pth")
    with pytest.raises(BackboneError, match=r"holds no weights \(its parts are epoch, lr\)"):
        read({"epoch": 1, "lr": 0.1}, tmp_path / "w.pth")
    with pytest.raises(BackboneError, match=r"holds no weights \(list\)"):
        read([torch.zeros(1)], tmp_path / "w.pth")


class Callback:
    """What Lightning puts into a checkpoint beside the weights."""


def test_a_checkpoint_that_needs_code_names_it_and_the_cure(vit: Any, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match=r"Callback.*was not opened.*save the model's state_dict\(\) alone"):
        read({"state_dict": vit.state_dict(), "callbacks": Callback()}, tmp_path / "w.ckpt")


@pytest.mark.parametrize("channels", [1, 4, 5, 13])
def test_weights_of_rgb_are_adapted_to_other_channels_as_timm_does(vit: Any, tmp_path: Path, channels: int) -> None:
    found = read(vit.state_dict(), tmp_path / "w.pth", **TINY_ARGS, in_chans=channels)
    assert found.fit is not None
    assert found.fit.adapted == f"patch_embed.proj adapted from 3 to {channels} channels"
    ours, rgb = found.frozen.network.patch_embed.proj.weight, vit.patch_embed.proj.weight
    repeated = rgb.repeat(1, -(-channels // 3), 1, 1)[:, :channels] * (3 / channels)
    torch.testing.assert_close(ours, rgb.sum(1, keepdim=True) if channels == 1 else repeated)
    assert found.frozen.channels == len(found.preprocessing.mean) == len(found.preprocessing.std) == channels
    assert found.frozen.features(torch.zeros(1, channels, 16, 16)).shape == (1, 32)


def test_a_cnn_takes_other_channels_too(tmp_path: Path) -> None:
    cnn = create("resnet18", CNN)
    found = read(cnn.state_dict(), tmp_path / "w.pth", "resnet18", **CNN, in_chans=6)
    assert found.frozen.channels == 6
    assert found.preprocessing.mean == pytest.approx((0.449,) * 6, abs=1e-3)
    assert found.frozen.features(torch.zeros(1, 6, 32, 32)).shape == (1, 32)


def test_weights_made_for_the_channels_stay_as_they_are(tmp_path: Path) -> None:
    own = create(NAME, {**TINY_ARGS, "in_chans": 5})
    found = read(own.state_dict(), tmp_path / "w.pth", **TINY_ARGS, in_chans=5)
    same(found, own, 5)
    assert found.fit is not None
    assert not found.fit.remarkable


def test_means_must_be_as_many_as_the_channels(vit: Any, tmp_path: Path) -> None:
    own = {**TINY_ARGS, "in_chans": 2}
    with pytest.raises(BackboneError, match="takes 2 channels: give as many numbers for mean and std"):
        read(vit.state_dict(), tmp_path / "w.pth", **own, mean=(0.5,) * 3)
    assert read(vit.state_dict(), tmp_path / "w.pth", **own, mean=(0.5, 0.1)).preprocessing.mean == (0.5, 0.1)


def test_complex_numbers_are_refused_and_not_cut(tmp_path: Path) -> None:
    state = dict(tiny_backbone().frozen.network.state_dict())
    state["norm.weight"] = state["norm.weight"].to(torch.complex64)
    safetensors.torch.save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(BackboneError, match=r"complex numbers.*norm\.weight"):
        load_backbone("vit_tiny_patch16_224", weights=tmp_path / "w.safetensors", **TINY_ARGS)
