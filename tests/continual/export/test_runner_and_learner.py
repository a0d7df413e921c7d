"""The stand-alone runner, as it is written beside a model, takes what the learner takes, and sees the same."""

from __future__ import annotations

import importlib.util
import struct
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from continual import SimpleCILLearner
from continual.data.inputs import PreparedImages, as_images
from continual.errors import InputError
from continual.export import standalone, writing
from continual.learning.learner import IncrementalLearner
from continual.testing import coloured_squares, tiny_backbone
from tests.continual.data.test_decoding import saved, transparent_files
from tests.support.odd_files import LEFT_RED, ODD_EXIF, exif, jpeg, png, tiff, turned, webp


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    """The runner's file, imported as someone would who has it alone."""
    path = tmp_path_factory.mktemp("box") / "onnx_runner_alone.py"
    path.write_text(standalone.source(), encoding="utf-8")
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[path.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[path.stem]


def odd_inputs(folder: Path) -> dict[str, Any]:
    """What is asked of both: what to give as `images`, by what it is."""
    noise = np.random.default_rng(0).integers(0, 256, (23, 31, 4), dtype=np.uint8)
    rgb, rgba = Image.fromarray(noise[..., :3]), Image.fromarray(noise)
    long = np.full((4, 4), 70_000, np.int32)
    files: dict[str, bytes] = {f"{name}.bin": data for name, data in transparent_files().items() if name != "TGA"}
    files["tga.tga"] = transparent_files()["TGA"]
    for number, (data, _) in enumerate(ODD_EXIF.values()):
        files[f"exif {number}.jpg"] = (jpeg, lambda d: png((b"eXIf", d)), webp)[number % 3](data)
    files |= {
        "odd.tif": tiff([turned(), (0x011A, 10, 1, struct.pack(">ii", -72, 1))]),
        "floats.tif": saved(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"),
        "long.tif": saved(Image.fromarray(long), "TIFF"),
        "deep.png": saved(Image.fromarray(np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000), "PNG"),
        "cmyk.jpg": saved(rgb.convert("CMYK"), "JPEG"),
        "bits.pbm": saved(rgb.convert("1"), "PPM"),
        "thread.png": saved(Image.new("RGB", (70_000, 1), "red"), "PNG"),
        "dot.png": saved(Image.new("RGB", (1, 1), "red"), "PNG"),
        "photo": jpeg(exif([turned(3)])),
        "photo.heic": b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64),
        "cut.png": png()[:60],
        "text.jpg": b"no picture",
        "empty.png": b"",
        "photo.dng": tiff([]),
        "page.eps": saved(rgb, "EPS"),
        "film.gif": saved(rgb, "GIF", save_all=True, append_images=[rgb.rotate(90)]),
    }
    for name, data in files.items():
        (folder / name).write_bytes(data)
    given: dict[str, Any] = {name: [folder / name] for name in files}
    with Image.open(folder / "odd.tif") as opened:
        opened.load()
        given["a TIFF that is open"] = [opened]
    for mode in ("1", "L", "LA", "P", "RGBA", "CMYK", "HSV", "LAB", "YCbCr", "I", "F", "I;16"):
        made = Image.new(mode, (9, 9)) if mode in ("LAB", "I", "F", "I;16") else rgba.convert("RGB").convert(mode)
        given[f"mode {mode}"] = [made]
    return given | {
        "a path as text": [str(folder / "dot.png")],
        "no file": [folder / "gone.png"],
        "a folder in a list": [folder],
        "a path that is no list": str(folder / "gone.png"),
        "an image that is no list": rgb,
        "one frame": noise[..., :3],
        "one transparent frame": noise,
        "a batch of frames": np.stack([noise[..., :3]] * 2),
        "a batch of transparent frames": np.stack([noise] * 2),
        "a batch of grey frames": noise[..., :1][None],
        "grey frames": noise[..., 0][None],
        "rows of numbers": noise[0, :, 0],
        "five axes": noise[None, None],
        "frames in a list": [noise[..., :3], noise[..., 0], noise[..., :1], noise],
        "two channels": [noise[..., :2]],
        "bytes": [b"bytes"],
        "the bytes of a file": [png()],
        "bytes that are no list": png(),
        "a column of paths": np.array([str(folder / "dot.png"), str(folder / "photo")]),
        "a column of path objects": np.array([folder / "dot.png"], dtype=object),
        "a mapping": {"a": folder / "dot.png"},
        "a mapping of positions": {0: folder / "dot.png"},
        "a set": {folder / "dot.png"},
        "a tuple": (rgb, rgb),
        "truth values": noise[None, ..., 0] > 128,
        "channels first": [np.ascontiguousarray(noise[..., :3].transpose(2, 0, 1))],
        "one channel first": [noise[None, ..., 0]],
        "transparency first": [np.ascontiguousarray(noise.transpose(2, 0, 1))],
        "upside down": [noise[::-1, ::-1, :3]],
        "read-only": [np.frombuffer(noise[..., :3].tobytes(), np.uint8).reshape(23, 31, 3)],
        "no pixels": [noise[:0, :, :3]],
        "no images": noise[:0, None, None, :3],
        "none": [None],
        "a number": [3],
        "doubles": [noise[..., :3] / 255.0],
        "wide numbers": [noise[..., :3].astype(np.int64)],
        "an iterator": iter([rgb]),
        "a number that is no list": 7,
        "different things": [rgb, noise[..., 0], folder / "photo"],
    }


def taken(ask: Any) -> np.ndarray | None:
    """What was made of the images, None if they were refused."""
    try:
        return np.stack(ask())
    except ValueError:
        return None


@pytest.mark.parametrize("group", [None, "D4"])
def test_the_runner_takes_what_the_learner_takes(box: ModuleType, tmp_path: Path, group: str | None) -> None:
    learner: IncrementalLearner[Any] = SimpleCILLearner(tiny_backbone(), group=group)
    about = writing._about(learner, 0.05)["preprocessing"]
    given = odd_inputs(tmp_path)
    assert len(given) >= 60

    def of_learner(images: Any) -> list[np.ndarray]:
        prepared = PreparedImages(as_images(images), [0] * len(images), learner.preprocessing, augment=False)
        return [prepared[i][0].numpy() for i in range(len(images))]

    def of_runner(images: Any) -> list[np.ndarray]:
        box.check_several(images)
        return [box.prepare(image, about, i) for i, image in enumerate(images)]

    verdicts = []
    for name in ("doubles", "wide numbers"):  # the learner asks for, or guesses, their range; the runner has none
        with pytest.raises(box.InputError, match=r"uint8 arrays \(H, W, 3\); other numbers as uint8"):
            of_runner(given.pop(name))
    for name, images in given.items():
        ours, theirs = (taken(lambda f=f, x=images: f(x)) for f in (of_learner, of_runner))
        assert (ours is None) == (theirs is None), name
        verdicts.append(ours is not None)
        if ours is not None:
            np.testing.assert_array_equal(ours, theirs, name)
    assert 20 < sum(verdicts) < len(verdicts) - 15, "some are taken, and some are refused"


def test_the_answer_to_a_rotated_file_is_the_same_bits(box: ModuleType, tmp_path: Path) -> None:
    learner = SimpleCILLearner(tiny_backbone(), group="D4")
    learner.learn(*coloured_squares(range(3), 3))
    writing.export_onnx(learner, tmp_path / "d4.onnx")
    runner = box.Runner(tmp_path / "d4.onnx")
    for shape in ((85, 64), (33, 47), (31, 31)):
        picture = np.random.default_rng(shape).integers(0, 256, (*shape, 3), dtype=np.uint8)
        files = []
        for turns in range(8):
            turned_ = np.rot90(picture if turns < 4 else picture[:, ::-1], turns)
            files.append(tmp_path / f"{shape[0]}_{turns}.png")
            Image.fromarray(np.ascontiguousarray(turned_)).save(files[-1])
        scores = runner.outputs(files, batch_size=1)["scores"]
        np.testing.assert_array_equal(scores, np.repeat(scores[:1], 8, axis=0))
        np.testing.assert_allclose(scores, learner.predict(files).scores, atol=1e-5)


def test_an_error_of_the_runner_is_a_value_error(box: ModuleType) -> None:
    assert issubclass(box.InputError, ValueError)
    assert issubclass(InputError, ValueError)
    with pytest.raises(ValueError, match=r"\[image\] for a single one"):
        box.check_several(LEFT_RED)
