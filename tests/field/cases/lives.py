"""What a model that lives for years is given: other backbones, other sites' models, and folders of other things."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from continual.cli.app import app
from continual.errors import BackboneError, InputError
from continual.learning.concept import Concept
from continual.learning.learner import IncrementalLearner
from continual.learning.merged import merged
from continual.methods import method
from continual.testing import coloured_squares, tiny_backbone, tiny_convnet
from tests.field.case import Case

SECTION = "A model's life"
QUICK = {"epochs": 1, "batch_size": 8, "bottleneck": 4, "alignment_epochs": 1, "projection": 50}


def _taught(name: str, classes: list[int], backbone: Any = None, **more: Any) -> IncrementalLearner[Any]:
    kind = method(name)
    known = {key: value for key, value in {**QUICK, **more}.items() if key in kind.settings_type.model_fields}
    learner = kind(backbone or tiny_backbone(), **known)
    learner.learn(*coloured_squares(classes, 6))
    return learner


@contextmanager
def _refused(learner: IncrementalLearner[Any], said: str) -> Iterator[None]:
    """One error that says so, and the learner as it was."""
    state, backbone = learner.state, learner.backbone
    with pytest.raises(InputError, match=said):
        yield
    assert learner.state is state
    assert learner.backbone is backbone


def _port_to_a_cnn(folder: Path) -> None:
    learner, anything = _taught("mos", [0, 1]), coloured_squares(range(5), 6, 1)[0]
    with _refused(learner, "cannot be ported to resnet18"):
        learner.port(tiny_convnet(), anything)
    sums = _taught("ridge", [0, 1])
    sums.port(tiny_convnet(), coloured_squares(range(20), 3, 1)[0])
    assert sums.backbone.name == "resnet18"


def _port_by_few_images(folder: Path) -> None:
    learner = _taught("ridge", [0, 1])
    with _refused(learner, "12 images are too few to map features by: give 20 at least, better 200"):
        learner.port(tiny_backbone(1), coloured_squares([0, 1], 6)[0])


def _port_between_strangers(folder: Path) -> None:
    learner = _taught("simple_cil", [0, 1])
    noise = torch.randint(0, 256, (24, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with _refused(learner, "below 30% a ported model is worse than the old one"):
        learner.port(tiny_backbone(1), noise)


def _merge_of_two_backbones(folder: Path) -> None:
    here, there = _taught("strata", [0, 1]), _taught("strata", [2, 3], tiny_backbone(1))
    with _refused(here, "what is remembered of one network's features says nothing of another's"):
        merged([here, there])
    for name, learner in (("here", here), ("there", there)):
        learner.save(folder / f"{name}.safetensors", embed_backbone=True)
    before = sorted(folder.iterdir())
    files = [str(folder / f"{name}.safetensors") for name in ("here", "there")]
    done = CliRunner().invoke(app, ["merge", *files, "--out", str(folder / "both.safetensors")])
    assert done.exit_code == 2
    assert done.stderr.count("error: ") == 1
    assert sorted(folder.iterdir()) == before


def _merge_of_trained_adapters(folder: Path) -> None:
    here, there = (_taught("mos", classes) for classes in ([0, 1], [2, 3]))
    with _refused(here, "give some 200 images of anything, without labels"):
        merged([here, there])
    assert len(merged([here, there], coloured_squares(range(8), 6, 1)[0]).classes) == 4


def _merge_of_heads(folder: Path) -> None:
    here, there = (_taught("finetune", classes) for classes in ([0, 1], [2, 3]))
    with _refused(here, "models of finetune cannot be merged: it remembers nothing of its classes but a head"):
        merged([here, there], coloured_squares(range(8), 6, 1)[0])


def _a_stamp_that_changes_nothing(folder: Path) -> None:
    learner = _taught("ridge", [0, 1])
    clear = Concept.of(coloured_squares([4, 5], 6)[0], stamp=Image.new("RGBA", (8, 8), (0, 0, 0, 0)), name="clear")
    with _refused(learner, "clear changes no feature of these images: there is nothing to suppress"):
        learner.suppress(clear)


def _a_stamp_without_sums(folder: Path) -> None:
    learner = _taught("simple_cil", [0, 1])
    logo = Concept.of(coloured_squares([4, 5], 6)[0], stamp=Image.new("RGB", (8, 8)), name="logo")
    with _refused(learner, "simple_cil does not say how a concept is taken out"):
        learner.suppress(logo)
    with _refused(learner, "simple_cil cannot ignore a concept"):
        learner.learn(*coloured_squares([2], 6), ignoring=logo)


def _unlabelled_of_other_classes(folder: Path) -> None:
    learner = _taught("ridge", [0, 1])
    noise = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    with _refused(learner, "unlabelled images are like a class that is learned: they seem to be of other classes"):
        learner.learn(*coloured_squares([2, 3], 6), unlabelled=noise)


def _an_edit_of_a_cnn(folder: Path) -> None:
    learner = _taught("ridge", [0, 1], tiny_convnet())
    logo = Concept.of(coloured_squares([4, 5], 6)[0], stamp=Image.new("RGB", (8, 8)), name="logo")
    with pytest.raises(BackboneError, match="rows of MLPs cannot be edited in resnet18"):
        learner.suppress(logo, edit="mlp")
    assert learner.state.ignored is None


def _one_line(folder: Path, *words: str) -> str:
    """Run a command that is to be one error, and leave the folder as it was; return what it says."""
    before = {path: path.read_bytes() for path in folder.iterdir()}
    done = CliRunner().invoke(app, [*words])
    assert done.exit_code == 2
    assert done.stderr.count("error: ") == 1
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    return " ".join(done.stderr.split())


def _one_model_twice(folder: Path) -> None:
    model = folder / "m.safetensors"
    _taught("ridge", [0, 1]).save(model, embed_backbone=True)
    said = _one_line(folder, "merge", str(model), str(folder / "." / "m.safetensors"), "--out", str(folder / "all.st"))
    assert "is named twice, and its images would count twice" in said


def _a_model_for_a_backbone(folder: Path) -> None:
    model = folder / "m.safetensors"
    _taught("ridge", [0, 1]).save(model, embed_backbone=True)
    for number in range(24):
        Image.new("RGB", (16, 16), (10 * number, 0, 0)).save(folder / f"{number}.png")
    images = ("--images", str(folder))
    for words in (("port", "--yes", "--model", str(model), "--to"), ("compress", "--out", "x", "--backbone")):
        assert "is a model, not a backbone" in _one_line(folder, *words, str(model), *images)


CASES = [
    Case(
        SECTION,
        "A model with adapters, to be moved to a CNN",
        "One error; a model of sums alone (`ridge`, `strata`) goes there.",
        "Checkpoints loaded with `strict=False` into another architecture, which then answers at random",
        _port_to_a_cnn,
    ),
    Case(
        SECTION,
        "A dozen images to map features by",
        "One error with the number that is needed; the model stays as it was.",
        "Calibration steps run on a handful of images",
        _port_by_few_images,
    ),
    Case(
        SECTION,
        "A port between networks that have nothing in common",
        "Refused, with the share of variance that is explained.",
        "Adapters moved to another model, and a silent loss of accuracy",
        _port_between_strangers,
    ),
    Case(
        SECTION,
        "Models of two backbones, to be merged",
        "One error that names both, and no file.",
        "Averaged checkpoints of different networks",
        _merge_of_two_backbones,
    ),
    Case(
        SECTION,
        "Models that have trained adapters at two sites, to be merged without images",
        "One error that asks for images of anything; with them, both sites' adapters are kept.",
        "Averaged adapters whose heads no longer fit them",
        _merge_of_trained_adapters,
    ),
    Case(
        SECTION,
        "Models that remember nothing of their classes but a head, to be merged",
        "One error that names methods which can be merged.",
        "Heads of two sites put side by side, whose scores mean different things",
        _merge_of_heads,
    ),
    Case(
        SECTION,
        "A logo that is transparent throughout, to be suppressed",
        "One error: it changes no feature, and nothing is written.",
        "Watermark files exported with an empty alpha channel",
        _a_stamp_that_changes_nothing,
    ),
    Case(
        SECTION,
        "A logo to be taken out of a model that remembers class means alone",
        "One error that names methods which remember enough.",
        "Edits asked of models that keep too little for them",
        _a_stamp_without_sums,
    ),
    Case(
        SECTION,
        "A folder of unlabelled images, of other things altogether",
        "One error with how many are like a class; nothing is learned, from the labelled ones neither.",
        "Pseudo-labels given to images of no class at all",
        _unlabelled_of_other_classes,
    ),
    Case(
        SECTION,
        "A logo to be taken out by an edit of the MLPs of a CNN",
        "One error: that takes a ViT with plain MLPs. The head can be edited.",
        "Model-editing tools run on an architecture that they were not written for",
        _an_edit_of_a_cnn,
    ),
    Case(
        SECTION,
        "One model file, named twice in a merge",
        "One error: its images would count twice.",
        "Lists of checkpoints made by a wildcard and by hand",
        _one_model_twice,
    ),
    Case(
        SECTION,
        "A model file, given where a backbone is asked for",
        "One error that says so.",
        "Whole checkpoints given to options that take pretrained weights",
        _a_model_for_a_backbone,
    ),
]
