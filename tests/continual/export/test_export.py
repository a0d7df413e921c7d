"""ONNX files: they answer as PyTorch does, for every number of images, on a device without PyTorch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from PIL import ExifTags, Image
from torch import Tensor

import continual
from continual.backbones.loading import Backbone, load_backbone
from continual.data.images import list_folder, open_image
from continual.errors import InputError
from continual.export import int8, onnx_runner, standalone, writing
from continual.export.onnx_runner import Runner
from continual.learning.answers import Scores
from continual.learning.learner import IncrementalLearner
from continual.methods import method, methods
from continual.statistics.head import Head
from continual.symmetry import KINDS
from continual.testing import coloured_squares, tiny_backbone

Blobs = Callable[..., tuple[Tensor, list[int]]]
Learner = IncrementalLearner[Any]
#: an output of the graph -> the column of `Scores` that it is
COLUMNS = {"probabilities": "probabilities", "familiarity": "p_value"} | {
    n: n for n in ("stack", "first_stack", "refinements")
}


def learned(name: str, backbone: Backbone | None = None, **settings: Any) -> Learner:
    """A method that has learned three experiences, trained hard so that stacks differ."""
    known = method(name).settings_type.model_fields
    quick = {"epochs": 2, "batch_size": 4, "lr": 0.3, "bottleneck": 4, "alignment_epochs": 1, "projection": 64}
    quick = {key: value for key, value in quick.items() if key in known}
    learner = method(name)(backbone or tiny_backbone(), **{**quick, **settings})
    for classes in ([0, 1], [2, 3], [4, 5, 6]):
        learner.learn(*coloured_squares(classes, 4))
    return learner


def differences(learner: Learner, runner: Runner, images: Tensor) -> dict[str, float]:
    """The largest difference in every column that either has."""
    ours, theirs = learner.score_batch(images), runner.run(images.numpy())
    columns = {"scores": ours.values, **{name: getattr(ours, own) for name, own in COLUMNS.items()}}
    columns = {name: value for name, value in columns.items() if value is not None}
    assert columns.keys() == theirs.keys()
    return {name: float(np.abs(value.numpy() - theirs[name]).max()) for name, value in columns.items()}


def noise(count: int, side: int = 16) -> Tensor:
    return 2 * torch.randn(count, 3, side, side, generator=torch.Generator().manual_seed(count))


def wandering(learner: Learner) -> Learner:
    """The same with random adapters and a random head, so that images wander from adapter to adapter."""
    draw = torch.Generator().manual_seed(2)
    bank = tuple(
        {k: 0.3 * torch.randn(v.shape, generator=draw) for k, v in adapter.items()} for adapter in learner.state.bank
    )
    head = Head(torch.randn(7, 32, generator=draw), torch.zeros(7))
    learner.state = replace(learner.state, bank=bank, head=head)
    return learner


@pytest.fixture(scope="module")
def mos() -> Learner:
    torch.set_num_threads(1)
    return wandering(learned("mos"))


@pytest.fixture(scope="module")
def exported(mos: Learner, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("export") / "mos.onnx"
    agreed = writing.export_onnx(mos, path, false_alarm_rate=0.2)
    assert agreed.images == agreed.same_answers == agreed.same_stacks == agreed.within == 8
    return path


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Wide, tall and square pictures, in colour and grey, one turned by its EXIF, one of 16 bits."""
    folder = tmp_path_factory.mktemp("photos")
    for number, image in enumerate([*writing.made_up(40, 12), Image.new("L", (9, 21), 77)]):
        image.save(folder / f"{number:02}.png")
    lying = Image.Exif()
    lying[ExifTags.Base.Orientation] = 6
    writing.made_up(48, 1)[0].save(folder / "turned.png", exif=lying)
    Image.fromarray(np.arange(0, 2**16, 64, dtype=np.uint16).reshape(32, 32)).save(folder / "wide.tif")
    return sorted(folder.iterdir())


@pytest.mark.slow
def test_retrieval_inside_the_graph_is_the_learner_s(mos: Learner, exported: Path) -> None:
    runner = Runner(exported)
    rounds = mos.score_batch(noise(40)).refinements
    assert rounds is not None
    assert len(rounds.unique()) > 2, "images of these learners must need different numbers of rounds"
    for count in (1, 2, 7, 40):
        found = differences(mos, runner, noise(count))
        assert max(found[name] for name in ("stack", "first_stack", "refinements")) == 0
        assert max(found.values()) < 1e-4


@pytest.mark.parametrize("own", [{}, {"within": 0.5, "regressed": "frozen"}], ids=str)
def test_a_regression_in_stage_one_chooses_adapters_inside_the_graph(tmp_path: Path, own: dict[str, Any]) -> None:
    learner = learned("mos", stage_one="ridge", **own)
    learner = wandering(learner) if own else learner
    writing.export_onnx(learner, tmp_path / "mos.onnx")
    runner = Runner(tmp_path / "mos.onnx")
    images = torch.stack([learner.preprocessing.evaluation()(x) for x in coloured_squares(range(7), 3, seed=1)[0]])
    assert len(learner.score_batch(images).stack.unique()) == 3  # type: ignore[union-attr]
    for rows in (images[:1], images):
        found = differences(learner, runner, rows)
        assert max(found[name] for name in ("stack", "first_stack", "refinements")) == 0
        assert max(found.values()) < 1e-4


@pytest.mark.slow
def test_an_image_s_answer_does_not_depend_on_the_others(exported: Path) -> None:
    runner, images = Runner(exported), noise(9).numpy()
    whole = runner.run(images)
    single = [runner.run(images[i : i + 1]) for i in range(9)]
    for name, values in whole.items():
        np.testing.assert_allclose(values, np.concatenate([one[name] for one in single]), atol=1e-5)


def test_the_runner_answers_as_predict_does(mos: Learner, exported: Path, photos: list[Path]) -> None:
    answers = Runner(exported).predict(photos, batch_size=5)
    expected = mos.predict(photos, false_alarm_rate=0.2)
    assert expected.probabilities is not None
    assert expected.stack is not None
    assert expected.unknown is not None
    assert [a["answer"] for a in answers] == expected.labels
    assert [a["stack"] for a in answers] == expected.stack.tolist()
    assert [a["unknown"] for a in answers] == expected.unknown.tolist()
    np.testing.assert_allclose([a["score"] for a in answers], expected.scores.amax(1), atol=1e-5)
    best = expected.probabilities[range(len(photos)), expected.scores.argmax(1)]
    np.testing.assert_allclose([a["probability"] for a in answers], best, atol=1e-4)
    assert Runner(exported).predict([]) == []


def test_labels_temperature_and_rate_travel_in_the_file(mos: Learner, exported: Path) -> None:
    about = Runner(exported).about
    assert about["classes"] == list(mos.classes)
    assert about["class_experience"] == [0, 0, 1, 1, 2, 2, 2]
    assert about["unknown_rate"] == 0.2
    assert about["temperature"] == mos.state.calibration.temperature
    assert about["backbone"]["sha256"] == mos.backbone.sha256


def test_the_box_needs_no_torch(exported: Path, photos: list[Path], tmp_path: Path) -> None:
    (tmp_path / "onnx_runner.py").write_text(standalone.source(), encoding="utf-8")
    program = (
        "import sys, onnx_runner; onnx_runner.main(sys.argv[1:]); "
        "assert not {'torch', 'onnx', 'continual'} & sys.modules.keys()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, exported, *photos[:2]],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["file"] for line in lines] == [str(path) for path in photos[:2]]
    for line, here in zip(lines, Runner(exported).predict(photos[:2]), strict=True):
        assert {name: line[name] for name in here} == pytest.approx(here, rel=1e-3)


def test_what_cannot_be_used_stops_no_other(
    exported: Path, photos: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    words = [str(path) for path in (photos[0], tmp_path / "gone.png", tmp_path / "broken.png", photos[1])]
    assert onnx_runner.main([str(exported), *words]) == 1
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["file"] for line in lines] == words
    assert ["error" in line for line in lines] == [False, True, True, False]
    for model in (tmp_path / "gone.onnx", tmp_path / "broken.png"):
        with pytest.raises(SystemExit, match=f"error: {model} is no ONNX model that can be read"):
            onnx_runner.main([str(model), *words])


def test_frames_are_resized_as_pillow_does(photos: list[Path]) -> None:
    draw = np.random.default_rng(0)
    for have, want in (((50, 60), (20, 24)), ((64, 64), (112, 112)), ((30, 90), (30, 41)), ((33, 20), (70, 20))):
        pixels = draw.integers(0, 256, (*have, 3), dtype=np.uint8)
        for name, filter_ in (("bicubic", Image.Resampling.BICUBIC), ("bilinear", Image.Resampling.BILINEAR)):
            theirs = np.asarray(Image.fromarray(pixels).resize(want[::-1], filter_))
            np.testing.assert_array_equal(onnx_runner.resize(pixels, *want, name), theirs)


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [(16, 16), (16, 24)])
def test_images_are_prepared_as_for_the_learner(
    photos: list[Path], backbone: Backbone, size: tuple[int, int], interpolation: str
) -> None:
    preprocessing = replace(
        backbone.preprocessing, size=size, interpolation=interpolation, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)
    )
    for path in photos:
        expected = preprocessing.evaluation()(open_image(path)).numpy()
        with Image.open(path) as image:
            for given in (path, image):
                np.testing.assert_array_equal(onnx_runner.prepare(given, asdict(preprocessing)), expected)


@pytest.mark.parametrize(
    "bad", [np.zeros((4, 4, 3), int), np.zeros((4, 4, 5), np.uint8), np.zeros((0, 4, 3), np.uint8)]
)
def test_the_runner_names_what_it_takes(exported: Path, bad: Any) -> None:
    with pytest.raises(ValueError, match="uint8 array|whole numbers that are not uint8"):
        Runner(exported).predict([bad])


def test_the_runner_refuses_other_files(tmp_path: Path, exported: Path) -> None:
    model = onnx.load(exported)
    del model.metadata_props[:]
    onnx.save(model, tmp_path / "other.onnx")
    with pytest.raises(ValueError, match="equimos export"):
        Runner(tmp_path / "other.onnx")


def test_a_graph_that_answers_otherwise_is_not_written(
    mos: Learner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exported: Path
) -> None:
    model = onnx.load(exported)
    del model.metadata_props[:]
    for tensor in model.graph.initializer:
        if 7 in tensor.dims and tensor.data_type == onnx.TensorProto.FLOAT:
            values = onnx.numpy_helper.to_array(tensor)
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros_like(values), tensor.name))
    monkeypatch.setattr(writing, "graph", lambda learner: model)
    (tmp_path / "old.onnx").write_text("old")
    with pytest.raises(InputError, match="not written"):
        continual.export_onnx(mos, tmp_path / "old.onnx")
    assert [path.read_text() for path in tmp_path.iterdir()] == ["old"]


def test_what_cannot_be_exported_says_why(mos: Learner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = replace(mos.backbone, preprocessing=replace(mos.backbone.preprocessing, interpolation="nearest"))
    other = type(mos)(odd)
    with pytest.raises(InputError, match="nothing has been learned"):
        writing.export_onnx(other, tmp_path / "x.onnx")
    other.state = mos.state
    with pytest.raises(InputError, match="nearest"):
        writing.export_onnx(other, tmp_path / "x.onnx")
    with pytest.raises(InputError, match="false_alarm_rate"):
        writing.export_onnx(mos, tmp_path / "x.onnx", false_alarm_rate=1)

    simple = learned("simple_cil")

    def depends(images: Tensor, cache: None = None) -> Scores:
        return Scores(torch.full((len(images), 7), 1 / 7) if images.sum() > 0 else torch.eye(7)[: len(images)])

    monkeypatch.setattr(type(simple), "_scores", lambda self, images, cache=None: depends(images))
    with pytest.raises(InputError, match="'simple_cil' cannot be written as an ONNX graph"):
        writing.export_onnx(simple, tmp_path / "x.onnx")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["mos", pytest.param("strata", marks=pytest.mark.slow)])
def test_a_backbone_in_8_bits_is_smaller_and_says_what_it_costs(
    name: str, mos: Learner, tmp_path: Path, exported: Path
) -> None:
    """Every linear layer of the two blocks, of MOS in its two graphs, of strata for both views of an image."""
    learner = mos
    if name == "strata":
        learner, exported = learned("strata", backbone=tiny_backbone()), tmp_path / "strata.onnx"
        writing.export_onnx(learner, exported)
    plain = onnx.load(exported)
    small = int8.quantised(plain)
    onnx.save(small, tmp_path / "small.onnx")
    kinds = [node.op_type for node in int8._nodes(small.graph)]
    assert kinds.count("MatMulInteger") == {"mos": 8, "strata": 16}[name]
    weights = 2 * 12 * 32 * 32  # qkv, projection and two of the MLP, in two blocks; three bytes of four are saved
    saved = exported.stat().st_size - (tmp_path / "small.onnx").stat().st_size
    assert 0.8 * 3 * weights < saved
    found = writing.compare(writing.exact(learner), Runner(tmp_path / "small.onnx"), writing.made_up(16))
    assert 0 < found.largest < 0.5
    assert all(value > 0 for value in int8.milliseconds(Runner(exported), Runner(tmp_path / "small.onnx"), rounds=3))


def test_weights_that_two_views_share_are_written_in_8_bits() -> None:
    """Large ones reach the graph as they are, and a node transposes them for every layer that they serve."""
    weight = np.random.default_rng(0).standard_normal((48, 64)).astype(np.float32)
    transpose = onnx.helper.make_node("Transpose", ["weight"], ["turned"], perm=[1, 0])
    layers = [onnx.helper.make_node("MatMul", [x, "turned"], [f"{x}_out"], name=f"layer_{x}") for x in "ab"]
    for layer in layers:
        entry = layer.metadata_props.add()
        entry.key, entry.value = "scopes", "['', 'network.network.blocks.0.attn.qkv', 'linear']"
    values = {
        name: onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", side])
        for name, side in (("a", 64), ("b", 64), ("a_out", 48), ("b_out", 48))
    }
    graph = onnx.helper.make_graph(
        [transpose, *layers],
        "two views",
        [values["a"], values["b"]],
        [values["a_out"], values["b_out"]],
        [onnx.numpy_helper.from_array(weight, "weight")],
    )
    small = int8.quantised(onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)]))
    assert [node.op_type for node in small.graph.node].count("MatMulInteger") == 2
    assert sum(onnx.numpy_helper.to_array(tensor).nbytes for tensor in small.graph.initializer) < weight.nbytes / 2


def test_a_graph_without_linear_layers_is_refused() -> None:
    with pytest.raises(InputError, match="no linear layer"):
        int8.quantised(onnx.helper.make_model(onnx.helper.make_graph([], "empty", [], [])))


def test_a_method_of_one_pass(tmp_path: Path) -> None:
    learner = learned("ridge")
    writing.export_onnx(learner, tmp_path / "ridge.onnx")
    assert max(differences(learner, Runner(tmp_path / "ridge.onnx"), noise(5)).values()) < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("group", ["C4", "D4"])
@pytest.mark.parametrize("symmetry", list(KINDS.all()))
def test_every_symmetry_has_a_free_batch(symmetry: str, group: str, tmp_path: Path) -> None:
    learner = learned("ridge", group=group, symmetry=symmetry)
    writing.export_onnx(learner, tmp_path / "ridge.onnx")
    runner = Runner(tmp_path / "ridge.onnx")
    for count in (1, 2, 5):
        assert max(differences(learner, runner, noise(count)).values()) < 1e-5


@pytest.mark.slow
def test_a_graph_looks_at_all_views(tmp_path: Path) -> None:
    learner = learned("ridge", group="C4", symmetry="equitune", passes=2)
    writing.export_onnx(learner, tmp_path / "ridge.onnx")
    assert max(differences(learner.variant(passes=None), Runner(tmp_path / "ridge.onnx"), noise(5)).values()) < 1e-5
    assert max(differences(learner, Runner(tmp_path / "ridge.onnx"), noise(5)).values()) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in methods() if name not in ("mos", "ridge")])
def test_every_method(name: str, tmp_path: Path) -> None:
    learner = learned(name)
    writing.export_onnx(learner, tmp_path / "model.onnx")
    assert max(differences(learner, Runner(tmp_path / "model.onnx"), noise(5)).values()) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"retrieval_rounds": 1},
        {"retrieval_rounds": 2, "ensemble": False},
        {"consolidate": "mean"},
        {"precision": "bfloat16", "early_exit": 0.1},
    ],
    ids=str,
)
def test_every_kind_of_retrieval(mos: Learner, settings: dict[str, Any], tmp_path: Path) -> None:
    learner = mos.variant(**settings)
    writing.export_onnx(learner, tmp_path / "model.onnx")
    plain = learner.variant(precision="float32", early_exit=None)
    assert max(differences(plain, Runner(tmp_path / "model.onnx"), noise(20)).values()) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings",
    [
        {"group": "D4", "retrieved_views": 1},
        {"group": "D4", "retrieved_views": 3, "views": 3},
        {"group": "C4", "symmetry": "pruned_orbit", "retrieved_views": 1},
        {"group": "C4", "symmetry": "pruned_orbit", "retrieved_views": 4},
        {"group": "C4", "symmetry": "equizero", "retrieved_views": 4},
        {"group": "C4", "symmetry": "score_averaging", "consolidate": "mean"},
    ],
    ids=str,
)
def test_retrieval_under_a_symmetry(settings: dict[str, Any], tmp_path: Path) -> None:
    """Later adapters see few of the views that are looked at, or all of them; their weights lie in the graph once."""
    learner = wandering(learned("mos", **settings))
    writing.export_onnx(learner, tmp_path / "model.onnx")
    runner, images = Runner(tmp_path / "model.onnx"), noise(20)
    assert max(differences(learner, runner, images).values()) < 1e-4
    rounds = learner.variant(symmetry="augmentation").score_batch(images).refinements
    assert rounds is not None
    assert len(rounds.unique()) > 1, "images must need different numbers of rounds"
    for quarters in range(4):
        rotated = runner.run(images.rot90(quarters, (-2, -1)).numpy().copy())
        np.testing.assert_allclose(rotated["scores"], runner.run(images.numpy())["scores"], atol=1e-5)
    weights = [t.raw_data for t in onnx.load(tmp_path / "model.onnx").graph.initializer if np.prod(t.dims) > 1000]
    assert len(set(weights)) == len(weights)
    onnx.save(int8.quantised(onnx.load(tmp_path / "model.onnx")), tmp_path / "small.onnx")
    assert writing.compare(learner, Runner(tmp_path / "small.onnx"), writing.made_up(16)).largest < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("symmetry", [{}, {"group": "C4"}, {"group": "C4", "symmetry": "score_averaging"}], ids=str)
def test_a_single_stack_needs_no_loop(symmetry: dict[str, Any], tmp_path: Path) -> None:
    learner = method("mos")(tiny_backbone(), epochs=1, **symmetry)
    learner.learn(*coloured_squares([0, 1, 2], 4))
    writing.export_onnx(learner, tmp_path / "model.onnx")
    assert "Loop" not in {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    theirs = Runner(tmp_path / "model.onnx").run(noise(5).numpy())
    np.testing.assert_allclose(theirs["scores"], learner.score_batch(noise(5)).values, atol=1e-5)


@pytest.mark.slow
@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "settings"),
    [("mos", {"epochs": 1, "batch_size": 16, "statistics": "diagonal"}), ("strata", {})],
    ids=["mos", "strata"],
)
def test_real_images(name: str, settings: dict[str, Any], shared: Path, tmp_path: Path) -> None:
    """2,500 test images of Tiny-ImageNet, most of classes the model does not know: the harder for retrieval."""
    data = shared / "data" / "tiny_imagenet_100"
    weights = shared / "weights" / "vit_small_patch14_dinov2_depth11_fp16.safetensors"
    learner = method(name)(load_backbone(weights=weights, img_size=98), **settings)
    paths, labels = list_folder(data / "train")
    names = sorted(set(labels))
    for classes in (names[:4], names[4:8], names[8:12]):
        chosen = [[p for p, label in zip(paths, labels, strict=True) if label == name][:8] for name in classes]
        learner.learn([p for own in chosen for p in own], [name for name in classes for _ in range(8)])
    images, _ = list_folder(data / "test")
    agreed = writing.export_onnx(learner, tmp_path / "model.onnx", images=images[:2500])
    print(f"{name}: {agreed.same_answers} of {agreed.images} answers the same, scores within {agreed.largest:.1g}")
    assert agreed.images == agreed.within == 2500
    assert agreed.same_answers >= 2498
