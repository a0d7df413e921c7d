"""Class names as a prior: CLIP's image towers as backbones, and what ridge and strata make of its texts.

The CLIP is a tiny one with random weights: what is checked are numbers, not what a trained one knows.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import continual
from continual import RidgeLearner, StrataLearner, load_backbone
from continual.backbones.joined import side_by_side
from continual.backbones.loading import Backbone
from continual.data.images import open_image
from continual.errors import BackboneError, InputError
from continual.export.learnable import readings
from continual.export.onnx_runner import Runner
from continual.export.writing import export_onnx
from continual.learning import model_file
from continual.learning.merged import merged
from continual.methods.bases.text_prior import readable
from continual.testing import LAWS, Case, coloured_squares, synthetic_case, tiny_backbone, tiny_convnet

open_clip = pytest.importorskip("open_clip")

Made = Callable[..., Any]
ARGUMENTS = {"img_size": 16, "embed_dim": 32, "depth": 1, "num_heads": 2, "patch_size": 4}
NAMES = {0: "hex_nut", 1: "rose", 2: "a red bolt"}
METHODS = (RidgeLearner, StrataLearner)


@pytest.fixture
def clip_file(tiny_clip: str, tmp_path: Path) -> Path:
    """A file with the weights of both towers."""
    from safetensors.torch import save_file

    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = open_clip.create_model(tiny_clip)
        torch.nn.init.uniform_(model.visual.ln_post.weight, 0.5, 2.0)  # it is 1 in a new one
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, tmp_path / "clip.safetensors")
    return tmp_path / "clip.safetensors"


@pytest.fixture
def clip(tiny_clip: str, clip_file: Path) -> Any:
    return open_clip.create_model(tiny_clip, pretrained=str(clip_file)).eval()


@pytest.fixture
def tower(clip_file: Path) -> Backbone:
    return load_backbone("vit_base_patch32_clip_224", weights=clip_file, **ARGUMENTS)


@pytest.fixture
def options(tiny_clip: str, clip_file: Path) -> dict[str, Any]:
    return {"text_tower": tiny_clip, "text_weights": str(clip_file)}


def images(classes: list[int], each: int = 6, seed: int = 0) -> tuple[Tensor, list[str]]:
    found, labels = coloured_squares(classes, each, seed=seed)
    return found, [NAMES[label] for label in labels]


def test_a_clips_tower_is_a_backbone(tower: Backbone, clip: Any) -> None:
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(tower.frozen.features(x) @ clip.visual.proj, clip.visual(x))
    for kind in METHODS:
        learner = kind(tower)
        learner.learn(*images([0, 1]))
        learner.learn(*images([2]))
        assert learner.evaluate(*images([0, 1, 2], seed=1)) > 0.5


@pytest.mark.parametrize("kind", METHODS)
def test_a_scale_of_0_is_the_same_to_the_bit(kind: Made, tower: Backbone, options: dict[str, Any]) -> None:
    plain, named = kind(tower), kind(tower, text_prior=0.0, **options)
    for learner in (plain, named):
        learner.learn(*images([0, 1, 2]))
    assert named.state.prior is None
    x = images([0, 1, 2], seed=1)[0]
    for name in ("scores", "probabilities", "p_value"):
        assert torch.equal(getattr(plain.predict(x), name), getattr(named.predict(x), name))


@pytest.mark.parametrize("kind", METHODS)
def test_of_a_strong_penalty_it_is_zero_shot(
    kind: Made, tower: Backbone, clip: Any, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to what all images have in common, which the free bias takes off."""
    views = {"penalty": 1e12, "mirror": False, "answer_views": 1} if kind is StrataLearner else {}
    learner = kind(tower, text_prior=1.0, balance=0.0, **views, **options)
    monkeypatch.setattr(RidgeLearner, "penalty_beside", lambda *_: 1e12)
    x, labels = images([0, 1, 2])
    learner.learn(x, labels)
    new = images([0, 1, 2], seed=4)[0]
    with torch.no_grad():
        prompts = [f"a photo of a {name.replace('_', ' ')}." for name in learner.classes]
        text = clip.encode_text(open_clip.get_tokenizer(options["text_tower"])(prompts), normalize=True)
        view = tower.preprocessing.evaluation()
        known, asked = (torch.stack([clip.encode_image(view(open_image(i))[None])[0] for i in own]) for own in (x, new))
    wanted = (asked - known.mean(0)) @ text.mT + 1 / 3
    with torch.no_grad():
        batch = torch.stack([view(open_image(i)) for i in new])
        got = learner.state.head(learner.design_features(learner.extractor, batch))
    torch.testing.assert_close(got, wanted, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", METHODS)
def test_a_models_life_needs_the_texts_of_new_classes_alone(
    kind: Made, tower: Backbone, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = kind(tower, text_prior="auto", exact_forget=1, **options)
    learner.learn(*images([0, 1]))
    learner.learn(*images([2]))
    plain = kind(tower, exact_forget=1)
    plain.learn(*images([0, 1, 2]))
    x = images([0, 1, 2], seed=2)[0]
    asked = learner.predict(x)
    assert not torch.equal(asked.scores, plain.predict(x).scores), "names count for something"
    learner.save(tmp_path / "model.safetensors")
    assert model_file.read_any_header(tmp_path / "model.safetensors").metadata["version"] == str(model_file.VERSION)
    monkeypatch.setitem(sys.modules, "open_clip", None)
    again = continual.load(tmp_path / "model.safetensors", backbone=tower)
    for name in ("scores", "probabilities", "p_value"):
        assert torch.equal(getattr(again.predict(x), name), getattr(asked, name))
    again.correct(images([1], 1, seed=9)[0], "rose")
    again.learn(*images([0, 2], 2, seed=5))
    again.rename("rose", "tulip")
    again.forget("hex_nut")
    assert again.state.prior.shape == (learner.state.prior.shape[0], 2)
    assert torch.equal(again.state.prior, learner.state.prior[:, 1:])
    again.learn(*images([2], 2, seed=6))
    with pytest.raises(InputError, match=r"equimos\[clip\]"):
        again.learn(images([0], 3)[0], ["a screw"] * 3)
    assert again.predict(x[:1]).labels, "the learner is as it was"


@pytest.mark.parametrize("kind", METHODS)
def test_the_order_of_classes_and_sites_changes_no_answer(kind: Made, tower: Backbone, options: dict[str, Any]) -> None:
    one, two, site = (kind(tower, text_prior=0.05, **options) for _ in range(3))
    one.learn(*images([0, 1, 2]))
    two.learn(*images([2]))
    two.learn(*images([1]))
    site.learn(*images([0]))
    assert two.classes != one.classes
    both = merged([two, site])
    x = images([0, 1, 2], seed=2)[0]
    first, second = one.predict(x), both.predict(x)
    places = [second.classes.index(label) for label in first.classes]
    torch.testing.assert_close(second.scores[:, places], first.scores, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(both.state.prior[:, places], one.state.prior)


@pytest.mark.parametrize("kind", METHODS)
def test_beside_another_backbone_the_direction_lies_in_the_towers_features(
    kind: Made, tower: Backbone, options: dict[str, Any]
) -> None:
    alone, beside = (
        kind(tower, text_prior=0.1, **options),
        kind(side_by_side([tiny_convnet(), tower]), text_prior=0.1, **options),
    )
    for learner in (alone, beside):
        learner.learn(*images([0, 1, 2]))
    own = alone.state.prior
    assert torch.equal(beside.state.prior[-len(own) :], own)
    assert not beside.state.prior[: -len(own)].any()
    assert len(beside.state.prior) == len(beside.state.sums.total)


@pytest.mark.parametrize("kind", METHODS)
@pytest.mark.parametrize("scale", [1.0, "auto"])
def test_of_one_class_a_name_weighs_nothing_until_there_is_a_second(
    kind: Made, scale: float | str, tower: Backbone, options: dict[str, Any]
) -> None:
    """The value of a single class is 1, and how unusual an image is follows from images alone."""
    named, plain = kind(tower, text_prior=scale, exact_forget=1, **options), kind(tower, exact_forget=1)
    for learner in (named, plain):
        learner.learn(*images([0], 20))
    x = images([0, 1], 6, seed=1)[0]

    def alike() -> None:
        ours, theirs = (learner.predict(x, false_alarm_rate=0.2) for learner in (named, plain))
        torch.testing.assert_close(ours.anomaly, theirs.anomaly)
        assert torch.equal(ours.p_value, theirs.p_value)
        assert torch.equal(ours.unknown, ours.anomaly > ours.anomaly_threshold)
        assert ours.anomaly_threshold == pytest.approx(theirs.anomaly_threshold)

    alike()
    both = kind(tower, text_prior=scale, exact_forget=1, **options)
    both.learn(*images([0, 1], 20))
    named.learn(*images([1], 20))
    torch.testing.assert_close(named.predict(x).scores, both.predict(x).scores, rtol=1e-4, atol=1e-6)
    plain.learn(*images([1], 20))
    for learner in (named, plain):
        learner.forget(NAMES[0])
        learner.learn(*images([1], 20, seed=3))
    alike()


def outputs(learner: Any, runner: Runner, asked: list[Any]) -> None:
    """Check that a graph's outputs are the learner's, to 1e-5."""
    ours, theirs = learner.predict(asked), runner.outputs(asked)
    torch.testing.assert_close(torch.from_numpy(theirs["scores"]), ours.scores, rtol=0, atol=1e-5)
    torch.testing.assert_close(torch.from_numpy(theirs["familiarity"]), ours.p_value, rtol=0, atol=1e-5)
    if ours.probabilities is not None:
        torch.testing.assert_close(torch.from_numpy(theirs["probabilities"]), ours.probabilities, rtol=0, atol=1e-5)
    if ours.anomaly is not None:
        torch.testing.assert_close(torch.from_numpy(theirs["anomaly"]), ours.anomaly, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("kind", "own"),
    [
        (RidgeLearner, {"text_prior": 1.0}),
        *(
            pytest.param(kind, own, marks=pytest.mark.slow)
            for kind, own in (
                (StrataLearner, {"text_prior": 1.0}),
                (RidgeLearner, {"text_prior": "auto", "group": "C4"}),
                (StrataLearner, {"text_prior": "auto", "group": "C4"}),
                (StrataLearner, {"text_prior": 0.2, "beside": True}),
            )
        ),
    ],
    ids=str,
)
def test_exported_it_answers_as_in_pytorch(
    kind: Made, own: dict[str, Any], tower: Backbone, options: dict[str, Any], tmp_path: Path
) -> None:
    settings = {name: value for name, value in own.items() if name != "beside"}
    backbone = side_by_side([tiny_convnet(), tower]) if "beside" in own else tower
    learner = kind(backbone, **settings, **options)
    asked = [image.permute(1, 2, 0).numpy() for image in images([0, 1, 2], 4, seed=2)[0]]
    for place, classes in enumerate(([0], [1, 2])):
        learner.learn(*images(classes, 8))
        export_onnx(learner, tmp_path / f"{place}.onnx")
        runner = Runner(tmp_path / f"{place}.onnx")
        outputs(learner, runner, asked)
        assert [one["answer"] for one in runner.predict(asked)] == learner.predict(asked).labels
    plain = kind(backbone, **{**settings, "text_prior": 0})
    plain.learn(*images([0, 1, 2], 8))
    assert (plain.predict(asked).scores - learner.predict(asked).scores).abs().max() > 1e-3, "names count for something"


def test_what_cannot_be_is_refused(tower: Backbone, options: dict[str, Any]) -> None:
    x, labels = images([0, 1])
    for label in ("12", "class_3", "n01443537", "c 1", "7", "--"):
        learner = RidgeLearner(tower, text_prior=0.1, **options)
        with pytest.raises(InputError, match="no name that means something"):
            learner.learn(x, [label if one == "rose" else one for one in labels])
        assert not learner.classes
    with pytest.raises(InputError, match="no name that means something"):
        RidgeLearner(tower, text_prior=0.1, **options).learn(x, [0] * 6 + [1] * 6)
    for wrong, said in (
        ({"text_prior": 0.1}, "text_tower='ViT-B-16.openai'"),
        ({"text_template": "a photo"}, "has no {}"),
        ({"text_prior": -1}, "text_prior"),
        ({"text_prior": "much"}, "text_prior"),
    ):
        with pytest.raises(InputError, match=said):
            RidgeLearner(tower, **wrong)
    with pytest.raises(BackboneError, match="is not the image tower of tiny-clip"):
        RidgeLearner(tiny_backbone(), text_prior=0.1, **options).learn(x, labels)
    with pytest.raises(BackboneError, match="unknown CLIP 'ViT-B-23'"):
        RidgeLearner(tower, text_prior=0.1, text_tower="ViT-B-23.openai").learn(x, labels)
    learner = RidgeLearner(tower, text_prior=0.1, **options)
    learner.learn(x, labels)
    with pytest.raises(InputError, match="with text_prior cannot be ported"):
        learner.port(tiny_backbone(), coloured_squares(range(5), 5)[0])
    with pytest.raises(InputError, match="without text_prior"):
        readings(learner)


def test_readable_names() -> None:
    assert [readable(name) for name in ("hex_nut", "Boeing 747", "M6 bolt", "été")] == [
        "hex nut",
        "Boeing 747",
        "M6 bolt",
        "été",
    ]


@pytest.mark.slow
@pytest.mark.parametrize("kind", METHODS)
def test_every_law_holds(kind: Made, tower: Backbone, options: dict[str, Any]) -> None:
    words = ["rose", "iris", "tulip", "oak", "elm", "ash", "fern", "moss"]
    plain = synthetic_case(kind, tower)
    named = [(x, [words[label] for label in labels]) for x, labels in plain.experiences]
    case = Case(lambda **more: kind(tower, text_prior="auto", **{**options, **more}), named, plain.images)
    for law in LAWS:
        # One makes numbers of names, and what needs names cannot be ported.
        if law.__name__ != "classes_keep_their_names" and not law.__module__.endswith(".porting"):
            law(case)
