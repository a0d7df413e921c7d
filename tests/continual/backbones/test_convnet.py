"""A CNN as a backbone: timm's own features and stages, in evaluation mode; methods that need a ViT's blocks say so."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.functional import layer_norm

import continual
from continual.backbones.convnet import FrozenConvNet
from continual.backbones.loading import assemble, create, load_backbone
from continual.datasets.streams import Experience
from continual.errors import BackboneError
from continual.experiments.results import inference_cost
from continual.export.onnx_runner import Runner
from continual.export.writing import export_onnx
from continual.methods import method, methods
from continual.methods.ranpac import RanPACLearner
from continual.methods.strata import StrataLearner
from continual.seeding import generator, seeded
from continual.testing import coloured_squares, tiny_backbone, tiny_convnet

ANY = sorted(name for name, kind in methods().items() if kind.any_backbone)
#: name -> arguments that make it small
FAMILIES: dict[str, dict[str, Any]] = {
    "resnet18": {"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]},
    "test_efficientnet": {},
    "mobilenetv3_small_050": {},
    "convnext_atto": {"depths": [1, 1, 1, 1], "dims": [8, 16, 24, 32]},
    "regnetx_002": {},
    "swin_tiny_patch4_window7_224": {"img_size": 32, "window_size": 4, "embed_dim": 12, "depths": [1, 1, 1, 1]},
}


def small(name: str, **arguments: Any) -> Any:
    """A network with weights and statistics that are all random: a fresh batch norm would hide a mistake."""
    with seeded(0, "model"):
        network = timm.create_model(name, num_classes=7, **{**FAMILIES[name], **arguments})
    for key, tensor in (*network.named_parameters(), *network.named_buffers()):
        if tensor.is_floating_point() and "relative" not in key:
            draw = torch.randn(tensor.shape, generator=generator(0, key))
            tensor.data.copy_(1 + draw.abs() if "running_var" in key else tensor + 0.2 * draw)
    return network


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 3, 32, 32, generator=generator(0, "images"))


@pytest.fixture(params=FAMILIES)
def network(request: pytest.FixtureRequest) -> Any:
    return small(request.param)


def test_features_are_timms_own_without_classifier(network: Any, images: Tensor) -> None:
    theirs = deepcopy(network).eval()
    frozen = FrozenConvNet(network, (32, 32))
    with torch.no_grad():
        expected = theirs.forward_head(theirs.forward_features(images), pre_logits=True)
        features = frozen.features(images)
    torch.testing.assert_close(features, expected)
    assert features.shape == (3, frozen.width)
    assert frozen.network.num_classes == 0


def test_block_tokens_are_the_features_and_what_the_stages_give(network: Any, images: Tensor) -> None:
    frozen, found = FrozenConvNet(network, (32, 32)), []
    hooks = [m.register_forward_hook(lambda *call: found.append(call[2].clone())) for m in frozen.stages]
    with torch.no_grad():
        features = frozen.features(images)
        for hook in hooks:
            hook.remove()
        two, everything = frozen.block_tokens(images, 2), frozen.block_tokens(images, 9)
        early, alone = frozen.block_tokens(images, 1, until=2), frozen.block_tokens(images, 2, patches=False)
    assert len(found) == frozen.depth == len(network.feature_info)
    means = []
    for each in found:  # Swin alone has its channels last
        channels_last = each if type(network).__name__ == "SwinTransformer" else each.permute(0, 2, 3, 1)
        positions = channels_last.flatten(1, 2).unbind(1)
        means.append(sum(layer_norm(position, position.shape[1:]) for position in positions) / len(positions))
    level = layer_norm(features, features.shape[1:])
    torch.testing.assert_close(everything, torch.cat([level, *means], 1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(two, torch.cat([level, *means[-2:]], 1), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(early, means[1], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(alone, level)


def test_batch_norms_keep_their_statistics_whatever_mode_is_asked_for(images: Tensor) -> None:
    frozen = FrozenConvNet(small("resnet18"), (32, 32))
    before, features = deepcopy(frozen.state_dict()), frozen.features(images)
    frozen.train()
    assert not any(module.training for module in frozen.modules())
    assert torch.equal(frozen.features(images), features)
    assert all(torch.equal(before[name], tensor) for name, tensor in frozen.state_dict().items())
    assert not features.requires_grad


def test_other_weights_may_stand_for_its_own_and_learn(images: Tensor) -> None:
    frozen = FrozenConvNet(small("resnet18"), (32, 32))
    own = {name: (2 * p).requires_grad_() for name, p in frozen.network.named_parameters() if "layer4" in name}
    found = frozen.features(images, weights=own)
    found.sum().backward()
    assert all(p.grad is not None for p in own.values())
    plain = frozen.features(images)
    frozen.network.load_state_dict({**frozen.network.state_dict(), **own})
    assert not torch.allclose(found, plain)
    torch.testing.assert_close(frozen.features(images), found.detach())


def test_double_precision_stays_and_half_comes_back_as_float(images: Tensor) -> None:
    frozen = FrozenConvNet(small("resnet18"), (32, 32))
    with torch.autocast("cpu", torch.bfloat16):
        assert (frozen.features(images).dtype, frozen.block_tokens(images, 2).dtype) == (torch.float32, torch.float32)
    assert frozen.double().features(images.double()).dtype == torch.float64


# Made and found again -----------------------------------------------------------------------------------


def test_it_takes_images_of_the_size_asked_for_or_the_one_timm_knows(tmp_path: Path) -> None:
    arguments = FAMILIES["resnet18"]
    assert assemble(create("resnet18", arguments), "resnet18").preprocessing.size == (224, 224)
    network = small("resnet18")
    torch.save(network.state_dict(), tmp_path / "weights.pth")  # its classifier is left out
    backbone = load_backbone("resnet18", weights=tmp_path / "weights.pth", img_size=[24, 32], **arguments)
    assert (backbone.width, backbone.depth, backbone.preprocessing.size) == (32, 5, (24, 32))
    small_images = torch.zeros(1, 3, 24, 32)
    expected = network.eval().forward_head(network.forward_features(small_images), pre_logits=True)
    torch.testing.assert_close(backbone.frozen.features(small_images), expected)


def test_what_cannot_be_read_in_stages_is_refused() -> None:
    other = small("resnet18")
    own = other.forward_features
    other.forward_features = lambda images: own(images) + 1
    for network, problem in ((nn.Sequential(nn.Conv2d(3, 4, 3)), "has no attribute"), (other, "in its own features")):
        with pytest.raises(BackboneError, match=f"(?s)cannot be read in stages of maps.*{problem}.*use a CNN of timm"):
            FrozenConvNet(network, (32, 32))


# Methods -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", methods())
def test_a_method_runs_on_it_or_says_which_do(name: str) -> None:
    frozen = tiny_convnet()
    if name in ANY and name != "ranpac":
        method(name)(frozen)
        return
    with pytest.raises(BackboneError, match=f"{name}.* works inside the blocks of a ViT, and ResNet has none") as error:
        method(name)(frozen)
    assert {word for word in methods() if f" {word}" in str(error.value)} - {name} <= {*ANY}
    with pytest.raises(BackboneError, match="no blocks that take adapters or prompts"):
        frozen.frozen.features(torch.zeros(1, 3, 16, 16), lambda _, tokens: tokens)


def test_ranpac_without_its_first_stage_has_no_stack_and_reads_frozen_features() -> None:
    for frozen in (tiny_backbone(), tiny_convnet()):
        learner = RanPACLearner(frozen, epochs=0, projection=50)
        learner.learn(*coloured_squares([0, 1], 4))
        learner.learn(*coloured_squares([2], 4))
        assert learner.memory().keys() == {"sums", "head", "temperature"}
        view = frozen.preprocessing.evaluation()
        images = torch.stack([view(image) for image in coloured_squares([0, 2], 2, seed=1)[0]])
        assert learner.state.head is not None
        values = learner.state.head(learner.project(frozen.frozen.features(images)))
        torch.testing.assert_close(learner.predict(images).scores, values.softmax(-1))


def test_strata_reads_both_views_and_keeps_what_they_take() -> None:
    learner = StrataLearner(tiny_convnet(), blocks=2)
    learner.learn(*coloured_squares([0, 1], 4))
    images = torch.randn(3, 3, 16, 16, generator=generator(1))
    frozen = learner.backbone.frozen
    both = torch.stack([frozen.block_tokens(view, 2) for view in (images, images.flip(-1))]).mean(0)
    torch.testing.assert_close(learner.design_features(learner.extractor, images), both)
    assert both.shape == (3, 32 + 24 + 32)
    assert learner.state.sums is not None
    assert learner.state.sums.gram().shape == (88, 88)


@pytest.mark.parametrize(
    ("name", "settings", "passes"), [("ridge", {}, 1), ("strata", {}, 2), ("ridge", {"group": "C4"}, 3)]
)
def test_forward_passes_are_counted_at_its_stages_as_at_a_vits_blocks(
    name: str, settings: dict[str, Any], passes: float
) -> None:
    images, labels = coloured_squares([0, 1], 4)
    for frozen in (tiny_convnet(), tiny_backbone()):
        learner = method(name)(frozen, **settings)
        learner.learn(images, labels)
        stream = [Experience(images, labels, images, labels, (0, 1))]
        assert inference_cost(learner, stream)[1] == passes


def learned(name: str) -> Any:
    settings = {"epochs": 0, "projection": 50} if name == "ranpac" else {}
    learner = method(name)(tiny_convnet(seed=3), **settings)
    learner.learn(*coloured_squares([0, 1, 2], 4))
    return learner


@pytest.mark.parametrize("name", ANY)
def test_a_file_holds_the_network_too(name: str, tmp_path: Path) -> None:
    learner, images = learned(name), coloured_squares([0, 1, 2], 3, seed=1)[0]
    learner.save(tmp_path / "model", embed_backbone=True)
    loaded = continual.load(tmp_path / "model")  # on a network made anew
    assert torch.equal(loaded.predict(images).scores, learner.predict(images).scores)


@pytest.mark.parametrize(
    "name", [name if name == "strata" else pytest.param(name, marks=pytest.mark.slow) for name in ANY]
)
def test_onnx_answers_as_it_does(name: str, tmp_path: Path) -> None:
    learner, images = learned(name), coloured_squares([0, 1, 2], 3, seed=1)[0]
    agreed = export_onnx(learner, tmp_path / "model.onnx")
    assert (agreed.same_answers, agreed.within) == (agreed.images, agreed.images)
    view = learner.backbone.preprocessing.evaluation()
    prepared = torch.stack([view(image) for image in images])
    theirs = torch.from_numpy(Runner(tmp_path / "model.onnx").run(prepared.numpy())["scores"])
    torch.testing.assert_close(theirs, learner.predict(prepared).scores, rtol=1e-4, atol=1e-5)


@pytest.mark.shared
def test_efficientnet_lite0_learns_real_images(shared: Path) -> None:
    weights = shared / "weights" / "tf_efficientnet_lite0_in1k_fp16.safetensors"
    backbone = load_backbone("tf_efficientnet_lite0", weights=weights, img_size=64)
    assert (backbone.width, backbone.depth, backbone.preprocessing.mean) == (1280, 5, (0.5, 0.5, 0.5))
    folder = shared / "data" / "cifar10_small"
    train, test = (
        [(path, name) for name in ("automobile", "frog") for path in sorted((folder / part / name).iterdir())[:20]]
        for part in ("train", "test")
    )
    learner = StrataLearner(backbone)
    for name in ("automobile", "frog"):
        paths = [path for path, own in train if own == name]
        learner.learn(paths, [name] * len(paths))
    assert learner.evaluate([path for path, _ in test], [name for _, name in test]) > 0.85
