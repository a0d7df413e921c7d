"""What may reach timm, wherever it comes from: a model file, a weights file's metadata, or a config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch

from continual.backbones import arguments
from continual.backbones.descriptions import rebuild
from continual.backbones.loading import create, from_hub, load_backbone, skeleton
from continual.errors import BackboneError
from continual.experiments.equivariance.config import ModelConfig
from continual.experiments.equivariance.models import load_classifier
from continual.testing import TINY_ARGS, tiny_backbone, tiny_convnet
from tests.hostile.values import LEVERS

NAME = "vit_tiny_patch16_224"


@pytest.mark.parametrize(("key", "value"), LEVERS, ids=[key for key, _ in LEVERS])
def test_levers_are_refused_by_name_from_every_source(
    key: str, value: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tiny_backbone().frozen.network.state_dict()
    metadata = {"timm": NAME, **{k: json.dumps(v) for k, v in {**TINY_ARGS, key: value}.items()}}
    safetensors.torch.save_file(state, tmp_path / "w.safetensors", metadata)
    described = tiny_backbone().describe()
    described["model_args"][key] = value
    for attempt in (
        lambda: load_backbone(weights=tmp_path / "w.safetensors"),
        lambda: load_backbone(f"{NAME}.augreg_in21k", **{key: value}),
        lambda: rebuild(described, state),
        lambda: create(NAME, {key: value}),
        lambda: from_hub(f"{NAME}.augreg_in21k", {key: value}),
    ):
        with pytest.raises(BackboneError, match=f"{key}|{NAME}"):
            attempt()


def test_nothing_is_asked_of_timm_before_the_arguments_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("timm was asked"))
    with pytest.raises(BackboneError, match="'checkpoint_path' is not allowed"):
        create(NAME, {"checkpoint_path": "evil.pth"})


def test_every_structural_argument_is_one_of_timm() -> None:
    import inspect

    from timm.models import convnext, efficientnet, eva, resnet, swin_transformer, vision_transformer

    kinds = (
        vision_transformer.VisionTransformer, eva.Eva, resnet.ResNet, convnext.ConvNeXt, efficientnet.EfficientNet,
        swin_transformer.SwinTransformer,
    )  # fmt: skip
    known = {name for kind in kinds for name in inspect.signature(kind.__init__).parameters}
    assert arguments.StructuralArguments.model_fields.keys() <= known


def test_what_describes_a_network_passes_as_it_is() -> None:
    given = {"img_size": (16, 24), "patch_size": 4, "mlp_ratio": 2, "global_pool": "avg", "init_values": None}
    assert arguments.checked(given, NAME) == given
    assert tiny_convnet().model_args["channels"] == [8, 16, 24, 32]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"depht": 3}, "did you mean depth"),
        ({"depth": True}, "depth=True"),
        ({"img_size": "98"}, "img_size='98'"),
        ({"mlp_ratio": float("nan")}, "finite"),
        ({"in_chans": 0}, "greater than or equal to 1"),
    ],
)
def test_wrong_values_are_named(given: dict[str, Any], said: str) -> None:
    with pytest.raises(BackboneError, match=said):
        create(NAME, given)


def test_a_network_that_is_too_large_takes_no_memory() -> None:
    with pytest.raises(BackboneError, match="positions"):
        create(NAME, {"img_size": 4096, "patch_size": 1})
    with pytest.raises(BackboneError, match="parameters"):
        create(NAME, {"embed_dim": 65536, "depth": 256, "num_heads": 256})
    assert {p.device.type for p in skeleton(NAME, {}).parameters()} == {"meta"}


def test_a_network_much_larger_than_its_file_is_not_made() -> None:
    with pytest.raises(BackboneError, match="the file holds"):
        create(NAME, {"embed_dim": 4096, "num_heads": 8}, {"a": torch.zeros(3)})


def test_a_download_is_said_before_it_starts(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = timm.create_model

    def fetch(name: str, pretrained: bool = False, **options: Any) -> Any:
        if pretrained:
            assert "fetching the weights of vit_tiny_patch16_224.augreg_in21k from huggingface.co/timm/" in (
                capsys.readouterr().err
            )
            raise ConnectionError
        return made(name, **options)

    monkeypatch.setattr(timm, "create_model", fetch)
    with pytest.raises(BackboneError, match="could not be fetched"):
        load_backbone(f"{NAME}.augreg_in21k")
    for name in ("hf-hub:evil/model", "hf_hub:evil/model", "local-dir:/tmp", f"{NAME}.evil"):
        with pytest.raises(BackboneError):
            load_backbone(name)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("weights_backbone", "DEFAULT"), ("progress", True), ("norm_layer", "os.system"), ("weights", "DEFAULT"),
        ("num_classes", 10**9), ("width_per_group", 4096), ("image_size", 10**9), ("dropout", float("nan")),
    ],
)  # fmt: skip
def test_levers_of_torchvision_are_refused(key: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    import torchvision

    made = torchvision.models.get_model

    def only_without_memory(*given: Any, **options: Any) -> Any:
        assert torch.empty(0).is_meta, "a network was made"
        return made(*given, **options)

    monkeypatch.setattr(torchvision.models, "get_model", only_without_memory)
    # A ResNet with so wide groups is too large; the others are nothing that describes it.
    with pytest.raises(BackboneError, match=f"torchvision/resnet50.*({key}|parameters)"):
        load_classifier(ModelConfig(name="torchvision/resnet50", args={key: value}), pretrained=False)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("cache_dir", "../outside"), ("pretrained_image_path", "evil.pt"), ("pretrained_text_path", "evil.pt"),
        ("pretrained_image", True), ("weights_only", False), ("jit", True), ("pretrained", "openai"),
        ("device", "cuda"), ("force_image_size", 10**9), ("force_preprocess_cfg", {"mean": 0}),
        ("vision_cfg", {"width": 10**9}),
    ],
)  # fmt: skip
def test_levers_of_open_clip_are_refused(key: str, value: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    open_clip = pytest.importorskip("open_clip")
    monkeypatch.setattr(open_clip, "create_model", lambda *_, **__: pytest.fail("open_clip was asked"))
    with pytest.raises(BackboneError, match=f"clip/ViT-B-32.*{key}"):
        load_classifier(ModelConfig(name="clip/ViT-B-32.openai", args={key: value}), ["rose"], pretrained=False)
