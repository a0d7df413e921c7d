"""The stand-alone runner, as it is written beside a model, takes what the learner takes, and sees the same."""

from __future__ import annotations

import ast
import importlib.util
import struct
import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from continual import SimpleCILLearner
from continual.backbones.loading import assemble, create
from continual.data.inputs import PreparedImages, as_images, range_of
from continual.errors import InputError
from continual.export import standalone, writing
from continual.testing import TINY_ARGS, coloured_squares, tiny_backbone
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
        "an iterator": iter([rgb]),
        "a number that is no list": 7,
        "different things": [rgb, noise[..., 0], folder / "photo"],
        "pairs": [(rgb, "a"), (noise[..., :3], "b")],
        "items with names": [{"image": rgb, "label": 1}, {"img": png(), "label": 2}],
        "a bytearray": [bytearray(png())],
        "three grey frames": np.stack([noise[..., 0]] * 3),
    }


def numbers() -> dict[str, tuple[Any, Any, str | None]]:
    """Arrays of floats and wide integers: images, the range stated, and the range remembered, by what they are."""
    noise = np.random.default_rng(1).integers(0, 256, (2, 23, 31, 4), dtype=np.uint8)
    rgb = noise[..., :3]
    unit = rgb / np.float32(255)
    first = np.ascontiguousarray(unit.transpose(0, 3, 1, 2))
    deep = rgb.astype(np.uint16) * 257
    spoiled = unit.copy()
    spoiled[1, 3, 4, 0] = np.nan
    endless = unit.copy()
    endless[0, 0, 0, 0] = np.inf
    inputs = np.linspace(-2, 2, 2 * 3 * 16 * 16, dtype=np.float32).reshape(2, 3, 16, 16)
    found: dict[str, tuple[Any, Any, str | None]] = {
        f"{what}, {stated!r} stated, {kept!r} remembered": (images, stated, kept)
        for what, images in {
            "floats in [0, 1]": unit,
            "floats in [0, 255]": rgb.astype(np.float32),
            "floats beyond": rgb.astype(np.float32) * 100,
            "floats in [-128, 127]": rgb.astype(np.float32) - 128,
            "uint16 of 12 bits": deep // 16,
            "int64 bytes": rgb.astype(np.int64),
            "the model's inputs": inputs,
        }.items()
        for stated, kept in (
            (None, None), ("unit", None), ("bytes", None), ((0, 4095), None), ("normalised", None),
            (None, "unit"), (None, "bytes"), (None, "0..4095"), (None, "normalised"), ((0, 1), "bytes"),
        )
    }  # fmt: skip
    others: dict[str, tuple[Any, Any]] = {
        "NaN": (spoiled, None),
        "NaN of a stated range": (spoiled, "unit"),
        "NaN in a normalised image": (spoiled, "normalised"),
        "infinity": (endless, None),
        "floats, channels first": (first, "unit"),
        "floats, channels first, in 12 bits": (first * 4095, (0, 4095)),
        "doubles": (unit.astype(np.float64), None),
        "halves": (unit.astype(np.float16), (0, 1)),
        "halves of their own range": (unit.astype(np.float16), (0, 2)),
        "float128": (unit.astype(np.longdouble), "unit"),
        "big-endian floats": (unit.astype(">f4"), "unit"),
        "big-endian uint16": (deep.astype(">u2"), (0, 65535)),
        "uint16": (deep, (0, 65535)),
        "uint16 upside down": (deep[:, ::-1, ::-1], (0, 65535)),
        "uint16 beyond its range": (deep, (0, 4095)),
        "int16 below zero": (deep.astype(np.int32).astype(np.int16) // 2, (-16384, 16383)),
        "uint32": (deep.astype(np.uint32), (0, 65535)),
        "uint64": (deep.astype(np.uint64), (0, 65535)),
        "int8": ((rgb // 2).astype(np.int8), (0, 127)),
        "int64": (rgb.astype(np.int64), "bytes"),
        "a grey batch of floats": (unit[..., :1], "unit"),
        "grey frames of uint16": (deep[..., 0], (0, 65535)),
        "grey frames of uint16 in a list": ([*deep[..., 0]], (0, 65535)),
        "grey channels first": (deep[:, None, :, :, 0], (0, 65535)),
        "transparent floats": (noise / np.float32(255), "unit"),
        "transparent uint16": (noise.astype(np.uint16) * 257, (0, 65535)),
        "transparent floats of their own range": (noise / np.float32(255), (0, 1.5)),
        "two channels of floats": (unit[..., :2], "unit"),
        "truth values": (rgb > 128, "unit"),
        "bytes with a range that is stated": (rgb, (0, 4095)),
        "complex numbers": (unit.astype(np.complex64), "unit"),
        "objects": (unit.astype(object), "unit"),
        "text": (np.array([["a", "b"], ["c", "d"]]), None),
        "times": (np.zeros((1, 4, 4, 3), "datetime64[s]"), None),
        "records": (np.zeros((1, 4, 4, 3), [("r", "f4")]), None),
        "no pixels": (unit[:, :0], None),
        "no images": (unit[:0], None),
        "a frame of floats": (unit[0], "unit"),
        "one number": (np.float32(0.5), None),
        "a list of rows": ([*unit[0]], "unit"),
        "floats and bytes": ([unit[0], rgb[0], deep[0]], None),
        "floats and bytes of a range": ([unit[0], rgb[0]], "unit"),
        "uint16 and pictures": ([deep[0], Image.fromarray(rgb[0])], (0, 65535)),
        "pairs of floats": ([(unit[0], 3), (unit[1], 4)], None),
        "a batch in a list": ([inputs[:1]], "normalised"),
        "inputs of another size": (unit, "normalised"),
        "inputs, channels last": (inputs.transpose(0, 2, 3, 1), "normalised"),
        "a grey input": ([inputs[0, :1]], "normalised"),
        "a range that is none": (unit, "percent"),
        "a range that is upside down": (unit, (1, 0)),
        "a range of three": (unit, (0, 1, 2)),
        "an endless range": (unit, (0, float("inf"))),
    }
    return found | {name: (*given, None) for name, given in others.items()}


def scenes(folder: Path) -> dict[str, tuple[Any, Any, str | None]]:
    """Images for a model of five channels: what is given, the range stated, and that remembered, by what they are."""
    tifffile = pytest.importorskip("tifffile")
    noise = np.random.default_rng(2).integers(0, 256, (2, 23, 31, 5), dtype=np.uint8)
    first, deep, unit = np.ascontiguousarray(np.moveaxis(noise, -1, 1)), noise.astype(np.uint16) * 16, noise / 255
    wide: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "contig"}
    tifffile.imwrite(folder / "bytes.tif", noise[0], **wide)
    tifffile.imwrite(folder / "deep.tif", deep[0], **wide)
    tifffile.imwrite(folder / "turned.tif", deep[0], extratags=[(274, "H", 1, 6, True)], **wide)
    tifffile.imwrite(folder / "four.tif", noise[0, ..., :4], **wide)
    tifffile.imwrite(folder / "pages.tif", first[0], photometric="minisblack")
    np.save(folder / "deep.npy", deep[0])
    np.save(folder / "first.npy", first[0])
    np.save(folder / "grey.npy", noise[0, ..., 0])
    np.savez(folder / "many.npz", noise[0])
    (folder / "photo.jpg").write_bytes(jpeg(exif([turned(3)])))
    (folder / "text.tif").write_bytes(b"no picture")
    spoiled = unit.copy()
    spoiled[1, 0, 0, 0] = np.nan
    inputs = np.linspace(-2, 2, 2 * 5 * 16 * 16, dtype=np.float32).reshape(2, 5, 16, 16)
    names = ("bytes.tif", "deep.tif", "turned.tif", "four.tif", "pages.tif", "deep.npy", "first.npy", "grey.npy")
    found = {
        f"{name}, {stated!r} stated, {kept!r} remembered": ([folder / name], stated, kept)
        for name in (*names, "many.npz", "photo.jpg", "text.tif", "gone.tif")
        for stated, kept in ((None, None), ((0, 4095), None), (None, "0..4095"))
    }
    return found | {
        f"{what}, {stated!r} stated": (images, stated, None)
        for what, images in {
            "a batch": noise,
            "channels first": first,
            "a list": [*noise],
            "uint16": deep,
            "floats": unit,
            "NaN": spoiled,
            "inputs": inputs,
            "truth values": noise > 128,
            "one frame": noise[0],
            "three channels": noise[..., :3],
            "grey": noise[..., 0],
            "a picture": [Image.fromarray(noise[0, ..., :3])],
            "bytes of a file": [(folder / "deep.tif").read_bytes()],
            "a file and an array": [folder / "deep.tif", deep[1]],
            "no images": noise[:0],
            "no pixels": noise[:, :0],
        }.items()
        for stated in (None, "unit", (0, 4095), "normalised")
    }


#: a resized byte may differ by one, as torchvision resizes tensors with other weights than Pillow's
STEP = 1 / 255 / 0.2
Verdict = tuple[np.ndarray | None, str, list[str]]


def verdict(ask: Callable[[], list[np.ndarray]]) -> Verdict:
    """What was made of the images, or the words of their refusal; and the warnings."""
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        try:
            found, words = np.stack([*ask()]), ""
        except ValueError as error:
            found, words = None, str(error)
    return found, words, [str(one.message) for one in heard]


class Both:
    """The learner, and the runner of its file."""

    def __init__(self, box: ModuleType, group: str | None, channels: int = 3) -> None:
        arguments = {**TINY_ARGS, "in_chans": channels}
        other = assemble(create("vit_tiny_patch16_224", arguments), "vit_tiny_patch16_224", arguments)
        self.box, self.learner = box, SimpleCILLearner(tiny_backbone() if channels == 3 else other, group=group)
        self.about = writing._about(self.learner, 0.05)

    def of_learner(self, images: Any, stated: Any = None, kept: str | None = None) -> Verdict:
        def ask() -> list[np.ndarray]:
            given = as_images(images)
            name, preprocessing = range_of(given, stated, kept), self.learner.preprocessing
            prepared = PreparedImages(given, [0] * len(given), preprocessing, augment=False, value_range=name)
            return [prepared[i][0].numpy() for i in range(len(given))]

        return verdict(ask)

    def of_runner(self, images: Any, stated: Any = None, kept: str | None = None) -> Verdict:
        about = {**self.about, "value_range": kept}
        return verdict(lambda: [*self.box.inputs(images, about, stated)])


@pytest.mark.parametrize("group", [None, "D4"])
def test_the_runner_takes_what_the_learner_takes(box: ModuleType, tmp_path: Path, group: str | None) -> None:
    both, verdicts = Both(box, group), []
    given = odd_inputs(tmp_path)
    assert len(given) >= 60
    for name, images in given.items():
        ours, theirs = both.of_learner(images), both.of_runner(images)
        assert ours[1:] == theirs[1:], name
        verdicts.append(ours[0] is not None)
        if ours[0] is not None:
            np.testing.assert_array_equal(ours[0], theirs[0], name)
    assert 20 < sum(verdicts) < len(verdicts) - 15, "some are taken, and some are refused"


@pytest.mark.parametrize("group", [None, "D4"])
def test_the_runner_of_a_grey_model_takes_what_the_learner_takes(
    box: ModuleType, tmp_path: Path, group: str | None
) -> None:
    both = Both(box, group, channels=1)
    for name, images in odd_inputs(tmp_path).items():
        ours, theirs = both.of_learner(images), both.of_runner(images)
        assert ours[1:] == theirs[1:], name
        if ours[0] is not None and theirs[0] is not None:
            np.testing.assert_allclose(ours[0], theirs[0], atol=STEP, err_msg=name)


@pytest.mark.parametrize("group", [None, "D4"])
def test_the_runner_of_many_channels_takes_what_the_learner_takes(
    box: ModuleType, tmp_path: Path, group: str | None
) -> None:
    both, verdicts = Both(box, group, channels=5), []
    for name, (images, stated, kept) in scenes(tmp_path).items():
        ours, theirs = both.of_learner(images, stated, kept), both.of_runner(images, stated, kept)
        assert ours[1:] == theirs[1:], name
        verdicts.append(ours[0] is not None)
        if ours[0] is not None and theirs[0] is not None:
            np.testing.assert_allclose(ours[0], theirs[0], atol=STEP, err_msg=name)
    assert 8 < sum(verdicts) < len(verdicts) - 8, "some are taken, and some are refused"


@pytest.mark.parametrize("group", [None, "D4"])
def test_the_runner_reads_numbers_as_the_learner_does(box: ModuleType, group: str | None) -> None:
    both, verdicts = Both(box, group), []
    given = numbers()
    assert len(given) >= 100
    for name, (images, stated, kept) in given.items():
        ours, theirs = both.of_learner(images, stated, kept), both.of_runner(images, stated, kept)
        assert ours[1:] == theirs[1:], name
        verdicts.append(ours[0] is not None)
        if ours[0] is not None and theirs[0] is not None:
            assert ours[0].dtype == theirs[0].dtype == np.float32
            # Floats that are resized are rounded by torch in another order than here; all else is the same bits.
            exact = stated in (None, "unit", "bytes", "normalised", (0, 1)) and kept != "0..4095"
            np.testing.assert_allclose(ours[0], theirs[0], atol=0 if exact else 2e-5, rtol=0, err_msg=name)
    assert 40 < sum(verdicts) < len(verdicts) - 40, "some are taken, and some are refused"


def test_tensors_are_read_by_the_learner_s_rules_where_torch_is_there(box: ModuleType) -> None:
    both = Both(box, None)
    bytes_ = torch.from_numpy(np.random.default_rng(2).integers(0, 256, (2, 3, 16, 16), dtype=np.uint8))
    for images, stated in (
        (bytes_, None), (bytes_ / 255, None), ((bytes_ / 255).bfloat16(), "unit"), (bytes_.long(), None),
        (bytes_.int() * 16, (0, 4080)), (bytes_[0], None), (bytes_[:, 0], None), (bytes_[:, :2], None),
        (bytes_ > 9, None),
    ):  # fmt: skip
        ours, theirs = both.of_learner(images, stated), both.of_runner(images, stated)
        assert ours[1:] == theirs[1:]
        if ours[0] is not None:
            np.testing.assert_allclose(ours[0], theirs[0], atol=0.03)  # torchvision resizes a tensor by other weights


def test_the_range_that_was_learned_goes_with_the_file(box: ModuleType, tmp_path: Path) -> None:
    images, labels = coloured_squares(range(3), 3)
    deep = images.permute(0, 2, 3, 1).numpy().astype(np.uint16) * 16
    learner = SimpleCILLearner(tiny_backbone())
    learner.learn(deep, labels, value_range=(0, 4080))
    writing.export_onnx(learner, tmp_path / "deep.onnx")
    runner = box.Runner(tmp_path / "deep.onnx")
    assert [found["answer"] for found in runner.predict(deep)] == learner.predict(deep).labels == labels
    plain = learner.predict(deep // 16, value_range="bytes").labels
    assert [found["answer"] for found in runner.predict(deep // 16, value_range="bytes")] == plain
    with pytest.raises(box.InputError, match="NaN"):
        runner.predict(np.full((1, 9, 9, 3), np.nan))


def test_no_name_is_there_twice_in_the_one_file() -> None:
    found = Counter[str]()
    for node in ast.parse(standalone.source()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] += 1
        own = [node.target] if isinstance(node, ast.AnnAssign) else []
        targets = node.targets if isinstance(node, ast.Assign) else own
        found.update(target.id for target in targets if isinstance(target, ast.Name))
    assert not [name for name, times in found.items() if times > 1]


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
    with pytest.raises(ValueError, match=r"image\[None\] for a single one"):
        box.check_several(LEFT_RED)
