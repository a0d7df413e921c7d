"""The learner's surface: forms of input, answers, files. The laws of every method are in conformance/."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

import continual
from continual.backbones.loading import Backbone, assemble, create, load_backbone
from continual.errors import BackboneError, InputError, ModelFileError
from continual.files import store
from continual.learning import model_file
from continual.learning.learner import IncrementalLearner
from continual.methods import methods
from continual.methods.mos.learner import MOSLearner
from continual.methods.simple_cil import SimpleCILLearner
from continual.testing import tiny_backbone, tiny_backbones, tiny_convnet
from tests.conftest import TINY_ARGS

Blobs = Callable[..., tuple[Tensor, list[int]]]
NAME = "vit_tiny_patch16_224"


class Photos(Dataset[Any]):
    """PIL images with class names, as a torchvision data set gives them."""

    def __init__(self, images: Tensor, labels: list[int]) -> None:
        self.images = [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in images]
        self.labels = [f"class {label}" for label in labels]

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Image.Image, str]:
        return self.images[index], self.labels[index]


@pytest.fixture
def learner(backbone: Backbone, blobs: Blobs) -> SimpleCILLearner:
    made = SimpleCILLearner(backbone)
    made.learn(*blobs([0, 1], 4))
    return made


# Learning and answering --------------------------------------------------------------------------------


def test_every_form_of_input_gives_the_same_learner(backbone: Backbone, blobs: Blobs, tmp_path: Path) -> None:
    images, labels = blobs([3, 1], 3)
    photos = Photos(images, labels)
    for i, (photo, name) in enumerate(photos[i] for i in range(len(photos))):
        (tmp_path / name).mkdir(exist_ok=True)
        photo.save(tmp_path / name / f"{i}.png")
    paths = sorted(tmp_path.glob("*/*.png"))
    forms = [(tmp_path, None), (photos, None), (photos.images, photos.labels), (paths, [p.parent.name for p in paths])]
    answers = []
    for given, names in forms:
        learner = SimpleCILLearner(backbone)
        learner.learn(given, names)
        assert learner.classes == ("class 1", "class 3")
        answers.append(learner.predict(photos.images).scores)
        assert learner.evaluate(given, names) == 1
    for scores in answers[1:]:
        torch.testing.assert_close(scores, answers[0])
    asked = [learner.predict(form).scores for form in (photos, photos.images)]
    assert torch.equal(*asked)
    assert len(learner.predict(tmp_path).labels) == 6


def test_a_prediction_says_what_its_columns_mean(learner: SimpleCILLearner, blobs: Blobs) -> None:
    images, labels = blobs([1, 0], 2, seed=1)
    answer = learner.predict(images)
    assert answer.classes == learner.classes == (0, 1)
    assert answer.labels == labels == [answer.classes[i] for i in answer.scores.argmax(-1)]
    assert answer.scores.shape == (4, 2)
    assert (answer.stack, answer.first_stack, answer.refinements) == (None, None, None)
    assert learner.evaluate(images, labels) == 1.0
    assert learner.evaluate(images, [1, 1, 1, 0]) == 0.75


def test_finished_inputs_are_not_prepared_again(learner: SimpleCILLearner, blobs: Blobs) -> None:
    images, _ = blobs([0, 1], 2)
    prepare = learner.backbone.preprocessing.evaluation()
    finished = torch.stack([torch.Tensor(prepare(image)) for image in images])
    assert torch.equal(learner.predict(finished).scores, learner.predict(images).scores)


def test_names_may_be_any_text(backbone: Backbone, blobs: Blobs, tmp_path: Path) -> None:
    names = ["ein Rotkehlchen 🐦", 'a "quoted" name/with.dots', "0", "<b>&amp;"]
    images, labels = blobs([0, 1, 2, 3], 2)
    learner = SimpleCILLearner(backbone)
    learner.learn(images, [names[label] for label in labels])
    learner.save(tmp_path / "model")
    loaded = continual.load(tmp_path / "model", backbone)
    assert loaded.predict(images).labels == [names[label] for label in labels]


def test_progress_reports_every_image(learner: SimpleCILLearner, blobs: Blobs) -> None:
    seen: list[Any] = []
    images, labels = blobs([2, 3], 3)
    learner.learn(images, labels, progress=lambda *a: seen.append(a))
    assert seen[-1] == ("collecting features", 6, 6, {})
    learner.variant(eval_batch_size=4).predict(images, progress=lambda *a: seen.append(a))
    assert seen[-2:] == [("predicting", 4, 6, {}), ("predicting", 6, 6, {})]


def test_questions_before_learning_are_refused(backbone: Backbone, blobs: Blobs) -> None:
    images, labels = blobs([0], 2)
    learner = SimpleCILLearner(backbone)
    assert learner.classes == ()
    with pytest.raises(InputError, match="nothing has been learned yet: call learn first"):
        learner.predict(images)
    with pytest.raises(InputError, match="class 0 was never learned; known: none yet"):
        learner.evaluate(images, labels)


def test_a_variant_shares_what_was_learned_and_nothing_else(learner: SimpleCILLearner, blobs: Blobs) -> None:
    other = learner.variant(eval_batch_size=3)
    assert (other.settings.eval_batch_size, learner.settings.eval_batch_size) == (3, 128)
    assert other.state is learner.state
    other.learn(*blobs([5], 2))
    assert (other.classes, learner.classes) == ((0, 1, 5), (0, 1))
    with pytest.raises(InputError, match="did you mean 'eval_batch_size'"):
        learner.variant(eval_batchsize=3)


def test_a_device_that_is_not_there_is_refused_by_torch(backbone: Backbone) -> None:
    with pytest.raises(RuntimeError):
        SimpleCILLearner(backbone, device="no such device")


# Files -------------------------------------------------------------------------------------------------


def test_a_file_references_the_backbone_and_finds_it_again(blobs: Blobs, tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    safetensors.torch.save_file(create(NAME, TINY_ARGS).state_dict(), weights)
    learner = SimpleCILLearner(load_backbone(NAME, weights=weights, mirror=False, **TINY_ARGS))
    learner.learn(*blobs([0, 1], 3))
    learner.save(tmp_path / "model")
    assert (tmp_path / "model").stat().st_size < weights.stat().st_size
    loaded = continual.load(tmp_path / "model")
    assert loaded.backbone.describe() == learner.backbone.describe()
    images, _ = blobs([0, 1], 2, seed=1)
    assert torch.equal(loaded.predict(images).scores, learner.predict(images).scores)

    moved = weights.rename(tmp_path / "moved.safetensors")
    with pytest.raises(BackboneError, match=r"no weights file at .*weights\.safetensors"):
        continual.load(tmp_path / "model")
    assert continual.load(tmp_path / "model", weights=moved).classes == (0, 1)

    safetensors.torch.save_file(create(NAME, TINY_ARGS).state_dict(), moved)  # other random weights
    with pytest.raises(BackboneError, match=learner.backbone.sha256):
        continual.load(tmp_path / "model", weights=moved)


def test_other_weights_are_refused_with_both_hashes(learner: SimpleCILLearner, tmp_path: Path) -> None:
    learner.save(tmp_path / "model")
    other = assemble(create(NAME, TINY_ARGS), NAME, TINY_ARGS)
    with pytest.raises(BackboneError, match=f"(?s){learner.backbone.sha256}.*{other.sha256}"):
        continual.load(tmp_path / "model", other)


def test_an_embedded_backbone_needs_nothing_else(learner: SimpleCILLearner, blobs: Blobs, tmp_path: Path) -> None:
    learner.save(tmp_path / "model", embed_backbone=True)
    loaded = continual.load(tmp_path / "model")
    assert loaded.backbone is not learner.backbone
    assert loaded.backbone.sha256 == learner.backbone.sha256
    assert loaded.backbone.preprocessing == learner.backbone.preprocessing
    images, _ = blobs([0, 1], 2, seed=1)
    assert torch.equal(loaded.predict(images).scores, learner.predict(images).scores)


def test_no_image_is_in_the_file(backbone: Backbone, blobs: Blobs, tmp_path: Path) -> None:
    few, many = MOSLearner(backbone, epochs=0), MOSLearner(backbone, epochs=0)
    few.learn(*blobs([0, 1], 2))
    many.learn(*blobs([0, 1], 60))
    few.save(tmp_path / "few")
    many.save(tmp_path / "many")
    sizes = [(tmp_path / name).stat().st_size for name in ("few", "many")]
    assert abs(sizes[0] - sizes[1]) < 64  # the counts of the images have more digits


def test_an_empty_learner_can_be_saved(backbone: Backbone, tmp_path: Path) -> None:
    for kind in methods().values():
        kind(backbone).save(tmp_path / "model")
        loaded = continual.load(tmp_path / "model", backbone)
        assert type(loaded) is kind
        assert loaded.classes == ()


def test_files_of_another_kind_are_refused(learner: SimpleCILLearner, backbone: Backbone, tmp_path: Path) -> None:
    path = tmp_path / "model"
    with pytest.raises(ModelFileError, match="no model file at"):
        continual.load(path, backbone)
    learner.save(path)
    with pytest.raises(ModelFileError, match="holds a 'simple_cil' model, not 'mos': use continual.load"):
        MOSLearner.load(path, backbone)


@pytest.mark.parametrize("lost", ["prototypes", "state", "method", "settings", "backbone", "a field"])
def test_a_file_that_lacks_a_part_is_called_damaged(
    learner: SimpleCILLearner, backbone: Backbone, tmp_path: Path, lost: str
) -> None:
    path = tmp_path / "model"
    learner.save(path)
    tensors, header = model_file.read(path)
    if lost == "prototypes":
        tensors.pop("state/prototypes/mean")
    elif lost == "a field":
        header["state"]["surprise"] = 1
    else:
        header.pop(lost)
    # As another program would: `model_file.write` checks what it writes.
    store(path, tensors, {"format": "equimos-model", "version": "3", "equimos": json.dumps(header)})
    with pytest.raises(ModelFileError, match=f"{path} lacks a part of the model|{path} is damaged"):
        continual.load(path, backbone)


@pytest.mark.parametrize("make", [tiny_backbone, tiny_backbones])
def test_images_are_prepared_as_the_file_says_on_any_backbone_given(
    make: Callable[[], Backbone], blobs: Blobs, tmp_path: Path
) -> None:
    (images, labels), path, own = blobs([0, 1], 4), tmp_path / "model", make()
    learner = SimpleCILLearner(own)
    learner.learn(images, labels)
    learner.save(path)
    other = [replace(part, preprocessing=replace(part.preprocessing, crop_pct=0.5)) for part in own.parts]
    loaded = continual.load(path, other)
    assert torch.equal(loaded.predict(images).scores, learner.predict(images).scores)
    assert loaded.backbone.describe() == own.describe()
    assert loaded.backbone.parts[0].frozen is own.parts[0].frozen
    assert continual.load(path, own).backbone is own


def test_a_backbone_of_images_of_another_size_is_refused(blobs: Blobs, tmp_path: Path) -> None:
    """A CNN has the same weights at every size."""
    small = tiny_convnet()
    large = assemble(small.frozen.network, small.name, {**small.model_args, "img_size": 32})
    assert large.sha256 == small.sha256
    learner = SimpleCILLearner(small)
    learner.learn(*blobs([0, 1], 4))
    learner.save(tmp_path / "model")
    with pytest.raises(BackboneError, match=r"images of \(16, 16\) .* takes \(32, 32\) .*'img_size': 16"):
        continual.load(tmp_path / "model", large)


def test_the_header_is_plain_json(learner: SimpleCILLearner, tmp_path: Path) -> None:
    learner.save(tmp_path / "model")
    _, header = model_file.read(tmp_path / "model")
    assert header["method"] == "simple_cil"
    common = {"classes": [0, 1], "class_experience": [0, 0], "experiences": 1, "updates": 1, "fitted": {}}
    assert header["state"] == {**common, "prototypes": {}, "temperature": {}}
    assert header["backbone"] == json.loads(json.dumps(learner.backbone.describe()))
    assert header["versions"] == model_file.versions()
    assert header["settings"]["seed"] == 1993


def test_memory_is_what_the_file_holds(learner: SimpleCILLearner, tmp_path: Path) -> None:
    learner.save(tmp_path / "model")
    tensors, _ = model_file.read(tmp_path / "model")
    assert sum(learner.memory().values()) == sum(t.numel() * t.element_size() for t in tensors.values())


# A learner on a changed backbone -----------------------------------------------------------------------


def test_preprocessing_can_be_changed_for_a_learner(backbone: Backbone, blobs: Blobs) -> None:
    dark = replace(backbone, preprocessing=replace(backbone.preprocessing, mean=(0.9, 0.9, 0.9)))
    learners: list[IncrementalLearner[Any]] = [SimpleCILLearner(b) for b in (backbone, dark)]
    for learner in learners:
        learner.learn(*blobs([0, 1], 2))
    assert not torch.equal(*[learner.state.prototypes.mean for learner in learners])
