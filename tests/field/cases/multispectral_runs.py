"""Files of many channels wherever pictures are taken: manifests, runs, checks, Avalanche, ONNX and the server."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from continual import load_backbone
from continual.avalanche.strategy import strategy_for
from continual.avalanche.streams import benchmark
from continual.backbones.loading import Backbone, assemble, create
from continual.data.decoding import decode
from continual.datasets.audit import audit
from continual.datasets.config import DataConfig, StreamConfig, find
from continual.errors import InputError, NeedsExtraError
from continual.experiments.config import load_config
from continual.experiments.run import run_config
from continual.export.onnx_runner import Runner
from continual.export.writing import export_onnx
from continual.files import store
from continual.learning.learner import IncrementalLearner
from continual.methods import method
from continual.metrics.accuracy import seen_accuracy
from continual.testing import TINY_ARGS
from tests.field.case import Case
from tests.field.cases.multispectral import SECTION

MEANT = (0, 4095)
NAMES = ("forest", "road", "sea", "town")


def _tree(folder: Path, *, size: tuple[int, int] = (20, 24), channels: int = 5) -> Path:
    """Scenes of 12 bits, five of each class, each class bright in other channels."""
    tifffile = pytest.importorskip("tifffile")
    draw = np.random.default_rng(0)
    for number, name in enumerate(NAMES):
        (folder / name).mkdir(parents=True)
        for each in range(5):
            scene = draw.integers(0, 900, (*size, channels), dtype=np.uint16)
            scene[..., number] += 3000
            if each % 2:
                np.save(folder / name / f"{each}.npy", scene)
            else:
                tifffile.imwrite(folder / name / f"{each}.tif", scene, photometric="minisblack", planarconfig="contig")
    return folder


def _weights(folder: Path) -> Path:
    torch.manual_seed(0)
    network = create("vit_tiny_patch16_224", {**TINY_ARGS, "in_chans": 5})
    store(folder / "five.safetensors", network.state_dict(), {})
    return folder / "five.safetensors"


def _backbone(folder: Path) -> Backbone:
    return load_backbone("vit_tiny_patch16_224", weights=_weights(folder), in_chans=5, **TINY_ARGS)


def _learner(folder: Path, name: str = "simple_cil", **settings: Any) -> tuple[IncrementalLearner[Any], list[Path]]:
    root = _tree(folder / "scenes")
    learner = method(name)(_backbone(folder), **settings)
    learner.learn(root, value_range=MEANT)
    paths = sorted(root.glob("*/*"))
    assert learner.evaluate(paths, [path.parent.name for path in paths]) == 1
    return learner, paths


def _config(folder: Path, data: str, more: str = "") -> Path:
    (folder / "run.toml").write_text(
        f'title = "Scenes"\n[data]\n{data}\n[stream]\nclasses = 2\n[backbone]\nname = "vit_tiny_patch16_224"\n'
        'weights = "five.safetensors"\n[backbone.args]\nin_chans = 5\n'
        + "\n".join(f"{key} = {value}" for key, value in TINY_ARGS.items())
        + f"\n[methods.simple_cil]\n[methods.ridge]\n{more}"
    )
    return folder / "run.toml"


def _runs(folder: Path) -> None:
    _tree(folder / "scenes")
    _weights(folder)
    lines = [f"scenes/{name}/{each}.{'npy' if each % 2 else 'tif'},{name}" for name in NAMES for each in range(5)]
    (folder / "list.csv").write_text("\n".join(["path,label", *lines]))
    given = 'value_range = [0, 4095]\nsource = "./{}"'
    for source in ("scenes", "list.csv"):
        cells = run_config(load_config(_config(folder, given.format(source))), folder / f"out {source}")
        assert [seen_accuracy(cell)[-1] for cell in cells] == [1, 1]
    config = _config(folder, 'source = "./scenes"')
    with pytest.raises(InputError, match=r"whole numbers that are not uint8: pass value_range"):
        run_config(load_config(config), folder / "unsaid")
    assert not (folder / "unsaid").exists()
    with pytest.raises(InputError, match=r"data.channels is 4, and the backbone takes 5"):
        load_config(_config(folder, given.format("scenes") + "\nchannels = 4"))


def _checks(folder: Path) -> None:
    root = _tree(folder / "scenes")
    found = audit(find(DataConfig(source=f"{root}/", channels=5)), channels=5)
    assert (found.train + found.test, found.errors) == (20, [])
    assert any(line.startswith("numbers are uint16, from 0 to 38") for line in found.remarks), found.remarks
    wrong = audit(find(DataConfig(source=f"{root}/", channels=4)), channels=4)
    assert any("it has 5 channels, and the backbone takes 4" in line for line in wrong.errors)


def _avalanche(folder: Path) -> None:
    root, backbone = _tree(folder / "scenes"), _backbone(folder)
    data = DataConfig(source=f"{root}/", value_range=MEANT)
    for stream in (StreamConfig(classes=2), StreamConfig(classes=4)):
        made = benchmark(data, stream, preprocessing=backbone.preprocessing)
        strategy = strategy_for("ridge")(model=backbone, train_mb_size=4, eval_mb_size=4)
        for experience in made.train_stream:
            strategy.train(experience)
        results = strategy.eval(made.test_stream)
        assert min(value for name, value in results.items() if name.startswith("Top1_Acc_Stream")) == 1
    with pytest.raises(InputError, match="whole numbers that are not uint8"):
        benchmark(DataConfig(source=f"{root}/"), 2, preprocessing=backbone.preprocessing)


def _onnx(folder: Path) -> None:
    pytest.importorskip("onnx")
    learner, paths = _learner(folder)
    assert export_onnx(learner, folder / "m.onnx", images=paths).holds
    assert export_onnx(learner, folder / "m.onnx").holds
    runner = Runner(folder / "m.onnx")
    expected = learner.predict(paths)
    assert [found["answer"] for found in runner.predict(paths)] == expected.labels
    np.testing.assert_allclose(runner.outputs(paths)["scores"], expected.scores.numpy(), atol=1e-4)
    arrays = np.random.default_rng(0).integers(0, 4096, (3, 5, 30, 17), dtype=np.uint16)
    np.testing.assert_allclose(runner.outputs(arrays)["scores"], learner.predict(arrays).scores.numpy(), atol=1e-4)
    with pytest.raises(InputError, match="5 channels"):
        runner.predict([np.zeros((9, 9, 3), np.uint8)])


def _serve(folder: Path) -> None:
    pytest.importorskip("fastapi")
    from fastapi.testclient import TestClient

    from continual.methods import load
    from continual.serving.answering import ServingOptions
    from continual.serving.app import make_app
    from continual.serving.model import ModelInUse

    learner, paths = _learner(folder, "ridge")
    learner.save(folder / "m.safetensors", embed_backbone=True)
    (folder / "m.txt").write_text("no scene")
    with TestClient(make_app(ModelInUse(folder / "m.safetensors", lambda _: load(folder / "m.safetensors")),
                             ServingOptions())) as client:  # fmt: skip
        for path in (paths[0], paths[1]):
            found = client.post("/predict", files={"image": (path.name, path.read_bytes())})
            assert found.status_code == 200, found.text
            assert found.json()["answers"][0]["answer"] == path.parent.name
        found = client.post("/predict", files={"image": ("a.txt", b"no scene")})
        assert found.status_code == 422
        assert "5 channels" in found.json()["error"]


def _for_photographs(folder: Path) -> None:
    root = _tree(folder / "scenes")
    with pytest.raises(InputError, match=r"0\.tif .*as TIFF.* many channels, .*\(in_chans, data\.channels\)"):
        _untrained(3).learn(root)


def _packed(folder: Path) -> None:
    pytest.importorskip("tifffile")
    if importlib.util.find_spec("imagecodecs") is not None:
        pytest.skip("imagecodecs is here")
    for packing, name in (("tiff_lzw", "LZW"), ("packbits", "PackBits"), ("zstd", "Zstandard")):
        Image.new("CMYK", (9, 9)).save(folder / "scene.tif", compression=packing)
        with pytest.raises(NeedsExtraError, match=rf"{name} need imagecodecs: pip install imagecodecs, or save them"):
            decode(folder / "scene.tif", channels=4)
        with pytest.raises(NeedsExtraError, match=rf"{name} need imagecodecs"):
            _untrained(4).learn([folder / "scene.tif"], ["a"])


def _untrained(channels: int) -> IncrementalLearner[Any]:
    arguments = {**TINY_ARGS, "in_chans": channels}
    return method("simple_cil")(assemble(create("vit_tiny_patch16_224", arguments), "vit_tiny_patch16_224", arguments))


CASES = [
    Case(
        SECTION,
        "a benchmark run on a folder or a manifest of such files",
        "`data.value_range = [0, 4095]` says what their numbers mean, and is asked for before anything is written; how "
        "many channels they have follows from the backbone's `in_chans`, or `data.channels`",
        "benchmark suites that read every data set as RGB",
        _runs,
    ),
    Case(
        SECTION,
        "`equimos data check --channels 5` on them",
        "every file is opened and counted, and the range of their numbers is said",
        "scenes with a band missing, found in the middle of a training",
        _checks,
    ),
    Case(
        SECTION,
        "an Avalanche benchmark of them",
        "`benchmark(DataConfig(source=..., value_range=...), preprocessing=backbone.preprocessing)` prepares them as "
        "`learn` does",
        "Avalanche's own data sets open files with Pillow",
        _avalanche,
    ),
    Case(
        SECTION,
        "an ONNX export of a model of five channels",
        "answers as the model does, for arrays and files; the runner refuses other numbers of channels",
        "exporters with (1, 3, 224, 224) written into them",
        _onnx,
    ),
    Case(
        SECTION,
        "uploads to a server of such a model",
        "TIFF and .npy files are answered; all else is refused with the number of channels",
        "servers that open uploads with Pillow alone",
        _serve,
    ),
    Case(
        SECTION,
        "files of many channels in one page, and a backbone for photographs",
        "one error that names the file and `in_chans`",
        "cannot identify image file, a title in every tracker around Pillow",
        _for_photographs,
    ),
    Case(
        SECTION,
        "a TIFF that is compressed with LZW, PackBits or Zstandard",
        "read with `imagecodecs`; without it one error says so",
        "GDAL compresses with LZW by default in many programs, and tifffile decodes it with a package of its own",
        _packed,
    ),
]
