"""Images of any number of channels, from the checkpoint to the answer of the file that was loaded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import continual
from continual import SimpleCILLearner
from continual.backbones.loading import Backbone, create, load_backbone
from continual.data.inputs import prepared
from continual.errors import InputError
from continual.seeding import seeded
from continual.testing import TINY_ARGS

NAME = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def backbones(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Backbone]:
    """Backbones of any number of channels, of one checkpoint for RGB."""
    path = tmp_path_factory.mktemp("rgb") / "w.safetensors"
    with seeded(0, "weights"):
        safetensors.torch.save_file(create(NAME, TINY_ARGS).state_dict(), path)
    return lambda channels: load_backbone(NAME, weights=path, **{**TINY_ARGS, "in_chans": channels})


def scenes(channels: int, dtype: Any, white: int) -> tuple[np.ndarray, list[str]]:
    """Two classes (12, C, 20, 24): bright in the first channel, and in the second or the only one."""
    rng, labels = np.random.default_rng(0), ["water", "forest"] * 6
    images = rng.integers(0, white // 4, (12, channels, 20, 24))
    images[0::2, 0] += white // 2
    images[1::2, 1 % channels] += white // (2 if channels > 1 else 8)
    return images.astype(dtype), labels


@pytest.mark.parametrize("channels", [2, 4, 5, 13])
@pytest.mark.parametrize(("dtype", "white", "value_range"), [(np.uint8, 255, None), (np.uint16, 4095, (0, 4095))])
@pytest.mark.parametrize("group", [None, "C4"])
def test_learned_saved_and_loaded(
    backbones: Callable[[int], Backbone],
    channels: int,
    dtype: Any,
    white: int,
    value_range: Any,
    group: str | None,
    tmp_path: Path,
) -> None:
    backbone = backbones(channels)
    assert len(backbone.preprocessing.mean) == len(backbone.preprocessing.std) == channels
    images, labels = scenes(channels, dtype, white)
    learner = SimpleCILLearner(backbone, group=group)
    learner.learn(images, labels, value_range=value_range)
    learner.save(tmp_path / "m.safetensors", embed_backbone=True)
    loaded = continual.load(tmp_path / "m.safetensors")
    scores = learner.predict(images).scores
    assert list(learner.predict(images).labels) == labels
    wide = torch.from_numpy(images.astype(np.int32)) if dtype == np.uint16 else torch.from_numpy(images)
    last = np.ascontiguousarray(np.moveaxis(images, 1, -1))
    for given in (images, list(images), wide, *([last] if channels > 4 else [])):
        assert torch.equal(loaded.predict(given).scores, scores), "as the range was when learned"


@pytest.mark.parametrize("settings", [{}, {"symmetry": "equitune"}], ids=str)
def test_a_group_permutes_as_many_channels_as_there_are(
    backbones: Callable[[int], Backbone], settings: dict[str, Any]
) -> None:
    learner = SimpleCILLearner(backbones(5), group="channel_cycle5", **settings)
    images, labels = scenes(5, np.uint8, 255)
    learner.learn(images, labels)
    scores = learner.predict(images).scores
    for shift in range(1, 5):
        assert torch.equal(learner.predict(np.roll(images, shift, 1)).scores, scores)
    with pytest.raises(InputError, match="group='channel_cycle5' permutes 5 channels, and the backbone takes 4"):
        SimpleCILLearner(backbones(4), group="channel_cycle5")


def test_every_channel_is_normalised_by_its_own_numbers(backbones: Callable[[int], Backbone]) -> None:
    backbone = backbones(5)
    mean, std = (0.1, 0.2, 0.3, 0.4, 0.5), (0.5, 0.4, 0.3, 0.2, 0.1)
    state = backbone.frozen.network.state_dict()
    assert state["patch_embed.proj.weight"].shape[1] == 5
    own = replace(backbone.preprocessing, mean=mean, std=std)
    image = np.full((5, *own.size), 51, np.uint8)
    found = prepared(image, 0, own, own.evaluation(), None)
    expected = (0.2 - torch.tensor(mean)) / torch.tensor(std)
    torch.testing.assert_close(found, expected[:, None, None].expand_as(found))


@pytest.mark.parametrize("how", ["folder", "file", "picture"])
def test_files_are_refused_with_the_cure(backbones: Callable[[int], Backbone], tmp_path: Path, how: str) -> None:
    from PIL import Image

    images, labels = scenes(5, np.uint8, 255)
    learner = SimpleCILLearner(backbones(5))
    learner.learn(images, labels)
    (tmp_path / "a").mkdir()
    picture = Image.new("RGB", (9, 9))
    picture.save(tmp_path / "a" / "x.png")
    ask: dict[str, Callable[[], Any]] = {
        "folder": lambda: SimpleCILLearner(backbones(5)).learn(tmp_path),
        "file": lambda: learner.predict(tmp_path / "a" / "x.png"),
        "picture": lambda: learner.predict([picture]),
    }
    with pytest.raises(InputError, match="takes 5 channels.* give TIFF or .npy files of"):
        ask[how]()


@pytest.mark.parametrize("kind", ["planar", "chunky", "npy"])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_a_folder_of_files_is_learned_asked_and_served(
    backbones: Callable[[int], Backbone], tmp_path: Path, kind: str, dtype: Any
) -> None:
    pytest.importorskip("fastapi")
    from continual.serving.model import Served
    from continual.serving.uploads import Limits, RefusedError, picture

    tifffile = pytest.importorskip("tifffile")
    white = 255 if dtype == np.uint8 else 4095
    images, labels = scenes(5, dtype, white)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        (tmp_path / "scenes" / label).mkdir(parents=True, exist_ok=True)
        place = tmp_path / "scenes" / label / f"{number:02}.{'npy' if kind == 'npy' else 'tif'}"
        if kind == "npy":
            np.save(place, image)
        elif kind == "planar":
            tifffile.imwrite(place, image, photometric="minisblack", planarconfig="separate", compression="zlib")
        else:
            tifffile.imwrite(place, np.moveaxis(image, 0, -1), photometric="minisblack", planarconfig="contig")
    given = {} if dtype == np.uint8 else {"value_range": (0, 4095)}
    learner, arrays = SimpleCILLearner(backbones(5)), SimpleCILLearner(backbones(5))
    learner.learn(tmp_path / "scenes", **given)
    paths = sorted((tmp_path / "scenes").rglob("*.*"))
    order = [int(path.stem) for path in paths]
    arrays.learn(images[order], [labels[i] for i in order], **given)
    found = learner.predict(tmp_path / "scenes")
    assert list(found.labels) == [path.parent.name for path in paths]
    torch.testing.assert_close(found.scores, arrays.predict(images[order]).scores, atol=0, rtol=0)
    served = Served(learner, (0, 0, 0))
    served.trial()
    sent = served.prepare(picture(paths[0].read_bytes(), paths[0].name, Limits(), served.channels))
    # One image by itself is rounded otherwise than in a batch on some processors.
    torch.testing.assert_close(served.scores([sent]).values[0], found.scores[0], atol=1e-6, rtol=0)
    with pytest.raises(RefusedError, match=r"too large: it has 2400 numbers") as refused:
        picture(paths[0].read_bytes(), "a", Limits(pixels=2399), served.channels)
    assert refused.value.status == 413


def test_a_model_of_grey_images_is_served_pictures(backbones: Callable[[int], Backbone]) -> None:
    pytest.importorskip("fastapi")
    from continual.serving.model import Served

    images, labels = scenes(1, np.uint8, 255)
    learner = SimpleCILLearner(backbones(1))
    learner.learn(images, labels)
    Served(learner, (0, 0, 0)).trial()


@pytest.mark.parametrize("channels", [1, 2, 4, 13])
@pytest.mark.parametrize("group", [None, "D4"])
def test_the_exported_model_answers_as_the_learner(
    backbones: Callable[[int], Backbone], tmp_path: Path, channels: int, group: str | None
) -> None:
    pytest.importorskip("onnx")
    from continual.export.onnx_runner import Runner
    from continual.export.writing import export_onnx

    images, labels = scenes(channels, np.uint16, 4095)
    learner = SimpleCILLearner(backbones(channels), group=group)
    learner.learn(images, labels, value_range=(0, 4095))
    assert export_onnx(learner, tmp_path / "m.onnx").holds
    runner = Runner(tmp_path / "m.onnx")
    assert (runner.channels, runner.about["version"]) == (channels, 4)
    for given in (images, list(images), np.moveaxis(images, 1, -1), (images // 16).astype(np.uint8)):
        expected = learner.predict(given)
        assert [found["answer"] for found in runner.predict(given)] == expected.labels
        np.testing.assert_allclose(runner.outputs(given)["scores"], expected.scores.numpy(), atol=1e-3)
