"""Backbones by full tag or from a file, with errors that say what to do; no test asks the network."""

from __future__ import annotations

import json
import pickle
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import timm
import torch
from torch import Tensor, nn

from continual.backbones.descriptions import check_same_weights, rebuild
from continual.backbones.loading import (
    Backbone,
    assemble,
    create,
    fingerprint,
    load_backbone,
)
from continual.errors import BackboneError
from continual.seeding import generator

NAME = "vit_tiny_patch16_224"
ARGS: dict[str, Any] = {"img_size": 16, "patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2}


@pytest.fixture
def vit() -> Any:
    return create(NAME, ARGS)


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    create_model = timm.create_model

    def offline(name: str, pretrained: bool = False, **options: Any) -> nn.Module:
        if pretrained:
            raise ConnectionError("no route to host")
        return create_model(name, **options)

    monkeypatch.setattr(timm, "create_model", offline)


def save(state: dict[str, Tensor], path: Path, **metadata: str) -> Path:
    if path.suffix == ".safetensors":
        safetensors.torch.save_file({k: v.contiguous() for k, v in state.items()}, path, metadata)
    elif path.suffix == ".npz":
        np.savez(path, **{k: v.numpy() for k, v in state.items()})
    else:
        torch.save(state, path)
    return path


def same_features(a: Backbone, vit: Any) -> None:
    images = torch.randn(2, 3, 16, 16, generator=generator(0))
    with torch.no_grad():
        torch.testing.assert_close(a.frozen.features(images), vit.eval()(images))


# Local files -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth", ".pt", ".bin"])
def test_a_local_file_gives_the_weights_that_were_saved(vit: Any, tmp_path: Path, suffix: str) -> None:
    path = save(vit.state_dict(), tmp_path / f"weights{suffix}")
    backbone = load_backbone(NAME, weights=path, **ARGS)
    same_features(backbone, vit)
    assert (backbone.name, backbone.width, backbone.depth) == (NAME, 24, 2)
    assert backbone.weights_file == str(path)
    assert backbone.sha256 == fingerprint(vit)


def test_the_file_may_carry_the_name_and_the_arguments(vit: Any, tmp_path: Path) -> None:
    metadata = {"timm": NAME, "format": "pt", **{k: json.dumps(v) for k, v in ARGS.items()}}
    path = save(vit.state_dict(), tmp_path / "weights.safetensors", **metadata)
    backbone = load_backbone(weights=path)
    same_features(backbone, vit)
    assert (backbone.name, backbone.model_args) == (NAME, ARGS)


def test_arguments_given_come_before_those_in_the_file(vit: Any, tmp_path: Path) -> None:
    path = save(vit.state_dict(), tmp_path / "weights.safetensors", timm="resnet18", depth="7")
    assert load_backbone(NAME, weights=path, **ARGS).depth == 2


def test_half_precision_weights_become_float32(vit: Any, tmp_path: Path) -> None:
    path = save({k: v.half() for k, v in vit.state_dict().items()}, tmp_path / "half.safetensors")
    backbone = load_backbone(NAME, weights=path, **ARGS)
    assert {p.dtype for p in backbone.frozen.parameters()} == {torch.float32}
    same_features(backbone, vit.half().float())


def test_position_embeddings_are_resized_to_the_images(vit: Any, tmp_path: Path) -> None:
    path = save(vit.state_dict(), tmp_path / "weights.safetensors")
    backbone = load_backbone(NAME, weights=path, **{**ARGS, "img_size": 24})
    assert backbone.preprocessing.size == (24, 24)
    assert backbone.frozen.features(torch.zeros(1, 3, 24, 24)).shape == (1, 24)


def test_a_classification_head_in_the_file_is_left_out(tmp_path: Path) -> None:
    vit = timm.create_model(NAME, **ARGS, num_classes=5)
    path = save(vit.state_dict(), tmp_path / "weights.pth")
    vit.reset_classifier(0)
    same_features(load_backbone(NAME, weights=path, **ARGS), vit)


def test_a_checkpoint_of_a_training_run_is_opened(vit: Any, tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pth"
    torch.save({"epoch": 3, "state_dict": vit.state_dict()}, path)
    same_features(load_backbone(NAME, weights=path, **ARGS), vit)


def test_an_eva_model_makes_the_round_trip(tmp_path: Path) -> None:
    eva = create("eva02_tiny_patch14_224", ARGS)
    path = save(eva.state_dict(), tmp_path / "eva.safetensors")
    same_features(load_backbone("eva02_tiny_patch14_224", weights=path, **ARGS), eva)


@pytest.mark.shared
def test_the_shared_half_precision_file_says_what_it_is(shared: Path) -> None:
    path = shared / "weights" / "vit_small_patch14_dinov2_depth11_fp16.safetensors"
    backbone = load_backbone(weights=path, img_size=28)
    assert (backbone.name, backbone.depth, backbone.width) == ("vit_small_patch14_dinov2", 11, 384)
    assert backbone.model_args == {"depth": 11, "img_size": 28}


class Payload:
    """Would run code when it is unpickled."""

    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return (Path.touch, (Path("owned"),))  # type: ignore[return-value]


def test_a_file_that_holds_code_is_not_opened(vit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": vit.state_dict(), "extra": Payload()}, "evil.pth")
    Path("plain.pth").write_bytes(pickle.dumps(Payload()))
    np.savez("evil.npz", weights=np.array([Payload()], dtype=object))
    for name in ("evil.pth", "plain.pth", "evil.npz"):
        with pytest.raises(BackboneError, match=f"{name} is"):
            load_backbone(NAME, weights=name, **ARGS)
    assert not Path("owned").exists()


@pytest.mark.parametrize("suffix", [".safetensors", ".npz", ".pth"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
def test_a_damaged_file_is_named(vit: Any, tmp_path: Path, suffix: str, damage: str) -> None:
    path = save(vit.state_dict(), tmp_path / f"weights{suffix}")
    whole = path.read_bytes()
    path.write_bytes({"truncated": whole[: len(whole) // 2], "empty": b"", "text": b"not a model"}[damage])
    with pytest.raises(BackboneError, match=f"weights{suffix}"):
        load_backbone(NAME, weights=path, **ARGS)


def test_weights_that_do_not_fit_are_listed(vit: Any, tmp_path: Path) -> None:
    path = save(vit.state_dict(), tmp_path / "weights.safetensors")
    with pytest.raises(BackboneError, match=r"is missing.*give model arguments such as img_size or depth"):
        load_backbone(NAME, weights=path, **{**ARGS, "depth": 3})
    with pytest.raises(BackboneError, match=r"blocks\.1\.\S+ is not part of the model.* and 9 more"):
        load_backbone(NAME, weights=path, **{**ARGS, "depth": 1})
    with pytest.raises(BackboneError, match=r"cls_token is \(1, 1, 24\) in the file but \(1, 1, 26\) in the model"):
        load_backbone(NAME, weights=path, **{**ARGS, "embed_dim": 26})


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("missing.safetensors", "no weights file at"),
        ("weights.h5", "must be safetensors, npz, or a checkpoint of torch"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, file: str, message: str) -> None:
    (tmp_path / "weights.h5").touch()
    with pytest.raises(BackboneError, match=message):
        load_backbone(NAME, weights=tmp_path / file)


def test_a_file_without_a_name_asks_for_it(vit: Any, tmp_path: Path) -> None:
    with pytest.raises(BackboneError, match="does not say which timm model"):
        load_backbone(weights=save(vit.state_dict(), tmp_path / "weights.safetensors"))


# Names -------------------------------------------------------------------------------------------------


def test_a_name_without_tag_is_refused_with_the_tags() -> None:
    with pytest.raises(BackboneError, match=r"needs its weights' tag.*'vit_base_patch16_224\.augreg_in21k'"):
        load_backbone("vit_base_patch16_224")


def test_an_unknown_tag_is_refused_with_the_tags() -> None:
    with pytest.raises(BackboneError, match=r"has no tag 'augreg'.*augreg_in21k"):
        load_backbone("vit_base_patch16_224.augreg")


@pytest.mark.parametrize("options", [{}, {"weights": "weights.safetensors"}])
def test_an_unknown_name_is_answered_with_the_nearest(
    vit: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    save(vit.state_dict(), Path("weights.safetensors"))
    with pytest.raises(BackboneError, match=r"unknown timm model 'vit_bse_patch16_224'.*'vit_base_patch16_224'"):
        load_backbone("vit_bse_patch16_224", **options)


def test_nothing_at_all_is_answered_with_an_example() -> None:
    with pytest.raises(BackboneError, match=r"vit_base_patch16_224\.augreg_in21k.*weights=FILE"):
        load_backbone()


def test_wrong_arguments_fail_before_any_download() -> None:
    with pytest.raises(BackboneError, match=r"'deepness' is not allowed"):
        load_backbone("vit_tiny_patch16_224.augreg_in21k", deepness=3)


def test_without_network_the_cure_is_named() -> None:
    with pytest.raises(BackboneError, match=r"could not be fetched.*ConnectionError.*pass weights=FILE"):
        load_backbone("vit_tiny_patch16_224.augreg_in21k")


def test_a_vit_without_places_for_adapters_is_refused() -> None:
    name = "vit_small_patch16_18x2_224"
    with pytest.raises(BackboneError, match="ParallelThingsBlock, which have no point"):
        assemble(create(name, ARGS), name)


# Provenance --------------------------------------------------------------------------------------------


def test_the_fingerprint_is_of_names_shapes_and_bits() -> None:
    linear = nn.Linear(3, 2)
    first = fingerprint(linear)
    assert len(first) == 64
    assert fingerprint(linear) == first
    with torch.no_grad():
        linear.weight[0, 0] = torch.nextafter(linear.weight[0, 0], torch.tensor(9.0))
    assert fingerprint(linear) != first
    assert fingerprint(nn.Sequential(linear)) != fingerprint(linear)
    assert fingerprint(nn.Linear(3, 2).bfloat16()) != fingerprint(nn.Linear(3, 2))


def test_other_weights_are_refused_with_both_hashes(backbone: Backbone, vit: Any) -> None:
    other = assemble(vit, NAME, ARGS)
    with pytest.raises(BackboneError, match=f"(?s){backbone.sha256}.*{other.sha256}"):
        check_same_weights(other, backbone.describe())


def test_a_backbone_is_found_again_by_its_description(vit: Any, tmp_path: Path) -> None:
    path = save(vit.state_dict(), tmp_path / "weights.safetensors")
    backbone = load_backbone(NAME, weights=path, crop_scale=(0.5, 1.0), mirror=False, **ARGS)
    description = json.loads(json.dumps(backbone.describe()))
    for state in (None, vit.state_dict()):
        again = rebuild(description, state)
        assert again.describe() == backbone.describe()
        assert again.preprocessing == backbone.preprocessing
        same_features(again, vit)


def test_a_file_that_has_changed_is_refused_with_both_hashes(vit: Any, tmp_path: Path) -> None:
    path = save(vit.state_dict(), tmp_path / "weights.safetensors")
    before = load_backbone(NAME, weights=path, **ARGS)
    with torch.no_grad():
        vit.norm.bias += 1
    save(vit.state_dict(), path)
    with pytest.raises(BackboneError, match=f"{before.sha256}.*{fingerprint(vit)}"):
        rebuild(before.describe())


def test_a_hub_backbone_without_network_is_refused_with_the_cure(backbone: Backbone) -> None:
    description = replace(backbone, name=f"{NAME}.augreg_in21k").describe()
    with pytest.raises(BackboneError, match="could not be fetched"):
        rebuild(description)


def test_preprocessing_is_timms_with_the_fields_given_changed(vit: Any) -> None:
    plain = assemble(vit, NAME, ARGS).preprocessing
    assert (plain.size, plain.mean, plain.std) == ((16, 16), (0.5,) * 3, (0.5,) * 3)
    assert (plain.interpolation, plain.crop_pct) == ("bicubic", 0.9)
    changed = assemble(vit, NAME, ARGS, mean=(0.0,) * 3, crop_pct=1.0).preprocessing
    assert changed == replace(plain, mean=(0.0,) * 3, crop_pct=1.0)


def test_making_a_backbone_leaves_the_global_random_state(vit: Any, tmp_path: Path) -> None:
    path = save(vit.state_dict(), tmp_path / "weights.safetensors")
    before = torch.random.get_rng_state()
    rebuild(load_backbone(NAME, weights=path, **ARGS).describe())
    assert torch.equal(torch.random.get_rng_state(), before)
