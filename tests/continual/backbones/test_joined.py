"""Several frozen networks as one backbone."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import continual
from continual.backbones.joined import as_backbone, levelled, side_by_side
from continual.backbones.loading import Backbone
from continual.data.inputs import PreparedImages
from continual.errors import BackboneError, InputError, ModelFileError
from continual.learning import model_file
from continual.learning.feature_store import FeatureStore
from continual.learning.merged import merged
from continual.methods import method, methods
from continual.testing import coloured_squares, tiny_backbone, tiny_backbones, tiny_convnet

ANY = sorted(name for name, kind in methods().items() if kind.any_backbone)
QUICK = {"ranpac": {"epochs": 0, "projection": 50}}


def prepared(backbone: Backbone, count: int = 3) -> Tensor:
    images = PreparedImages(*coloured_squares(range(count), 1), backbone.preprocessing, augment=False)
    return torch.stack([images[place][0] for place in range(count)])


def learned(name: str = "strata", backbone: Any = None, **settings: Any) -> Any:
    learner = method(name)(backbone or tiny_backbones(), **QUICK.get(name, {}), **settings)
    learner.learn(*coloured_squares([0, 1, 2], 4))
    return learner


def test_its_features_are_those_of_all_side_by_side() -> None:
    both = tiny_backbones()
    images = prepared(both)
    alone = [part.frozen.features(prepared(part)) for part in both.parts]
    found = both.frozen.features(images)
    assert torch.equal(found, levelled(alone))
    assert found.shape == (3, both.width) == (3, 64)
    tokens = torch.cat([part.frozen.block_tokens(prepared(part), 4) for part in both.parts], 1)
    assert torch.equal(both.frozen.block_tokens(images, 4), tokens)
    early = torch.cat([part.frozen.block_tokens(prepared(part), 1, until=2) for part in both.parts], 1)
    assert torch.equal(both.frozen.block_tokens(images, 1, until=2), early)
    # A network of fewer blocks ends with its last.
    last = both.parts[0].frozen.block_tokens(prepared(both.parts[0]), 1, until=2)
    assert torch.equal(both.frozen.block_tokens(images, 1, until=3)[:, : last.shape[1]], last)


def test_no_network_drowns_the_others() -> None:
    """However long and large features are: a cosine of both together is the mean of the two cosines."""
    draw = torch.Generator().manual_seed(0)
    few, many = torch.randn(4, 10, generator=draw), 1000 * torch.randn(4, 500, generator=draw) + 5000
    found = levelled([few, many])

    def cosines(rows: Tensor) -> Tensor:
        unit = torch.nn.functional.normalize(rows - rows.mean(1, keepdim=True), dim=1)
        return unit @ unit.mT

    unit = torch.nn.functional.normalize(found, dim=1)
    torch.testing.assert_close(unit @ unit.mT, (cosines(few) + cosines(many)) / 2, atol=1e-4, rtol=0)
    assert levelled([few.double(), many.double()]).dtype == torch.float64


@pytest.mark.parametrize("name", ANY)
@pytest.mark.parametrize("symmetry", ["frame", "equitune", "pruned_orbit", "canonicaliser", "score_averaging"])
def test_answers_are_the_same_however_an_image_is_turned(name: str, symmetry: str) -> None:
    """The law of groups under D4: to the bit, though the networks' inputs are of different sizes."""
    learner = learned(name, group="D4", symmetry=symmetry, views=8)
    images = coloured_squares([0, 1, 2], 2, seed=5)[0]
    expected = learner.predict(images)
    for turned in (images.rot90(1, (-2, -1)), images.flip(-1), images.rot90(2, (-2, -1)).flip(-1)):
        assert torch.equal(learner.predict(turned).scores, expected.scores)


@pytest.mark.parametrize("name", sorted(set(methods()) - set(ANY)))
def test_methods_that_work_inside_a_network_say_why_they_cannot(name: str) -> None:
    with pytest.raises(BackboneError, match=f"{name} works inside the blocks of one ViT, and these are 2 backbones"):
        method(name)(tiny_backbones())


def test_ranpac_with_epochs_says_why_it_cannot() -> None:
    with pytest.raises(BackboneError, match="ranpac, unless epochs=0, works inside the blocks of one ViT"):
        method("ranpac")(tiny_backbones(), epochs=1)


def test_a_learner_takes_them_in_a_list() -> None:
    parts = [tiny_backbone(), tiny_convnet()]
    learner = learned(backbone=parts)
    assert learner.backbone.describe() == side_by_side(parts).describe()
    assert [part.name for part in learner.backbone.parts] == ["vit_tiny_patch16_224", "resnet18"]
    assert "vit_tiny_patch16_224: 2 x 32, 16 x 16 px" in repr(learner)
    assert as_backbone([parts[0]]) is parts[0]
    third = tiny_backbone(1)
    assert side_by_side([learner.backbone, third]).parts == (*learner.backbone.parts, third)
    with pytest.raises(BackboneError, match="needs its weights' tag"):
        method("strata")(["resnet18", parts[0]])
    with pytest.raises(BackboneError, match="a list of them, got int"):
        method("strata")(7)
    with pytest.raises(BackboneError, match="got 0"):
        method("strata")([])
    with pytest.raises(BackboneError, match="is there twice"):
        method("strata")([parts[0], parts[0]])


@pytest.mark.parametrize("name", ANY)
@pytest.mark.parametrize("embed", [False, True])
def test_files(name: str, embed: bool, tmp_path: Path) -> None:
    learner, place = learned(name), tmp_path / "m.safetensors"
    learner.save(place, embed_backbone=embed)
    header = model_file.read_header(place)
    assert [part["sha256"] for part in header["backbone"]["parts"]] == [p.sha256 for p in learner.backbone.parts]
    assert header["backbone"]["parts"][1]["preprocessing"]["mean"] == [0.5, 0.4, 0.3]
    assert model_file.fetch(place)[1]["version"] == ("6" if name in ("ridge", "strata") else "4")
    again = continual.load(place, None if embed else list(learner.backbone.parts))
    images = coloured_squares([0, 1, 2], 2, seed=5)[0]
    assert torch.equal(again.predict(images).scores, learner.predict(images).scores)
    assert again.backbone.describe() == learner.backbone.describe()
    again.learn(*coloured_squares([3], 4))
    again.correct(images[:1], 0)
    again.forget(1)
    assert again.classes == (0, 2, 3)


def test_a_model_of_one_backbone_is_written_as_before(tmp_path: Path) -> None:
    learned("simple_cil", backbone=tiny_backbone()).save(tmp_path / "m.safetensors")
    assert model_file.fetch(tmp_path / "m.safetensors")[1]["version"] == "3"
    assert "parts" not in model_file.read_header(tmp_path / "m.safetensors")["backbone"]


def test_other_weights_and_another_order_are_refused(tmp_path: Path) -> None:
    learned().save(tmp_path / "m.safetensors")
    vit, convnet = tiny_backbones().parts
    other = tiny_backbone(1)
    with pytest.raises(BackboneError, match=f"(?s){vit.sha256}.*{other.sha256}"):
        continual.load(tmp_path / "m.safetensors", [other, convnet])
    with pytest.raises(BackboneError, match=f"(?s){vit.sha256}.*{convnet.sha256}"):
        continual.load(tmp_path / "m.safetensors", [convnet, vit])
    with pytest.raises(BackboneError, match=re.escape("made with vit_tiny_patch16_224 + resnet18, but these are vit")):
        continual.load(tmp_path / "m.safetensors", vit)
    with pytest.raises(BackboneError, match=re.escape("2 backbones (vit_tiny_patch16_224, resnet18) and 1 weights")):
        continual.load(tmp_path / "m.safetensors", weights="one.safetensors")


def test_a_damaged_description_is_refused(tmp_path: Path) -> None:
    learner = learned()
    learner.save(tmp_path / "m.safetensors")
    for change in ({"parts": []}, {"parts": "x"}, {"sha256": "x"}, {"extra": 1}):
        spoiled = {**model_file.read_header(tmp_path / "m.safetensors")}
        spoiled["backbone"] = {**spoiled["backbone"], **change}
        with pytest.raises(ModelFileError, match=rf"backbone\.{next(iter(change))}"):
            model_file.write(tmp_path / "n.safetensors", learner.export()[0], spoiled)


@pytest.mark.parametrize("name", ANY)
def test_models_of_two_places_are_merged(name: str) -> None:
    one, other = learned(name), method(name)(tiny_backbones(), **QUICK.get(name, {}))
    other.learn(*coloured_squares([3, 4], 4))
    joint = merged([one, other])
    assert joint.classes == (0, 1, 2, 3, 4)
    alone = method(name)(tiny_backbones().parts[0], **QUICK.get(name, {}))
    alone.learn(*coloured_squares([3, 4], 4))
    with pytest.raises(InputError, match="its backbone is vit_tiny"):
        merged([one, alone])


def test_a_store_knows_their_features_wherever_the_weights_lie(tmp_path: Path) -> None:
    images, store = coloured_squares([0, 1, 2], 4)[0], FeatureStore(tmp_path)
    parts = tiny_backbones().parts
    moved = [parts[0], replace(parts[1], weights_file="moved.safetensors")]
    answers = []
    for backbone in (list(parts), moved):
        learner, before = method("strata")(backbone), store.saved
        learner.store = store
        learner.learn(images, coloured_squares([0, 1, 2], 4)[1])
        answers.append(learner.predict(images).scores)
    assert store.saved > before
    assert torch.equal(*answers)


def test_a_strategy_of_avalanche_that_trains_the_backbone_is_refused() -> None:
    pytest.importorskip("avalanche")
    from continual.avalanche.external import find_method

    kind = find_method("avalanche.training:Naive")
    kind(tiny_backbones(), train_backbone=False)
    with pytest.raises(BackboneError, match="unless train_backbone=false"):
        kind(tiny_backbones())
