"""Several backbones on the command line and in configs: learned with, asked, changed, merged, exported, run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import continual
from continual.experiments.config import load_config
from tests.continual.conftest import write_convnet, write_pictures
from tests.support.refusals import refused

Equimos = Callable[..., Any]


@pytest.fixture
def cnn(tmp_path: Path) -> Path:
    """Weights of a CNN whose file says its name, but no size."""
    return write_convnet(tmp_path / "cnn.safetensors")


@pytest.fixture
def words(weights: Path, cnn: Path) -> list[Any]:
    return ["--weights", weights, "--weights", cnn, "--model-arg", "2.img_size=24", "--model-arg", "crop_pct=0.95"]


def done(result: Any) -> Any:
    assert result.exit_code == 0, result.stderr
    return result


def test_a_models_life(equimos: Equimos, tmp_path: Path, flowers: Path, words: list[Any], cnn: Path) -> None:
    model = tmp_path / "m.safetensors"
    said = done(equimos("learn", "--yes", "--images", flowers, "--model", model, *words)).stderr
    assert "strata on vit_tiny_patch16_224 + resnet18" in said
    assert "backbone 1, input: 16 x 16 px" in said
    assert "backbone 2, input: 24 x 24 px" in said
    learner = continual.load(model)
    assert [part.preprocessing.size for part in learner.backbone.parts] == [(16, 16), (24, 24)]
    assert {part.preprocessing.crop_pct for part in learner.backbone.parts} == {0.95}

    rows = json.loads(done(equimos("predict", flowers, "--model", model, "--json", "-")).stdout)
    assert [row["answer"] for row in rows] == learner.predict(flowers).labels
    about = json.loads(done(equimos("info", "--model", model, "--json", "-")).stdout)
    assert [part["sha256"] for part in about["backbone"]["parts"]] == [p.sha256 for p in learner.backbone.parts]
    shown = done(equimos("info", "--model", model)).stdout
    assert all(name in shown for name in ("vit_tiny_patch16_224", "resnet18", str(cnn.name)))

    more = write_pictures(tmp_path / "more", ["iris"])
    done(equimos("learn", "--yes", "--images", more, "--model", model, "--keep-held-out", "2"))
    done(equimos("correct", flowers / "rose" / "0.png", "--class", "rose", "--model", model))
    done(equimos("forget", "tulip", "--model", model))
    assert len(json.loads(done(equimos("history", "--model", model, "--json", "-")).stdout)) == 4
    assert "the model" not in done(equimos("rollback", "--model", model)).stderr
    assert set(continual.load(model).classes) == {"rose", "tulip", "iris"}

    ported = equimos("port", "--yes", "--images", flowers, "--to-weights", cnn, "--model", model)
    refused(ported, "several backbones side by side: port them in Python")

    moved = tmp_path / "moved.safetensors"
    shutil.move(cnn, moved)
    refused(equimos("predict", flowers, "--model", model), "say where they are with --weights, once for each of its 2")
    refused(equimos("predict", flowers, "--model", model, "--weights", moved), "2 backbones", "1 weights files")
    places = ["--weights", words[1], "--weights", moved]
    done(equimos("predict", flowers, "--model", model, *places))
    done(equimos("rollback", "--model", model, *places))


def test_what_does_not_fit_is_refused_before_anything_is_made(
    equimos: Equimos, tmp_path: Path, flowers: Path, words: list[Any], weights: Path
) -> None:
    learn = ["learn", "--yes", "--images", flowers, "--model", tmp_path / "m.safetensors"]
    refused(equimos(*learn, *words, "--method", "mos"), "mos works inside the blocks of one ViT", "2 backbones")
    refused(equimos(*learn, *words, "--model-arg", "3.img_size=8"), "no backbone 3")
    odd = [*words[:4], "--model-arg", "2.img_size=25"]
    refused(equimos(*learn, *odd), "16 x 16, 25 x 25 px")
    refused(equimos(*learn, "--weights", weights, "--weights", weights), "is there twice")
    named = ["--backbone", "resnet18", "--backbone", "resnet34"]
    refused(equimos(*learn, *named, "--weights", weights), "2 times and --weights 1 times")
    refused(equimos(*learn, *named), "needs its weights' tag")
    assert not (tmp_path / "m.safetensors").exists()
    done(equimos(*learn, *words))
    again = ["--yes", "--images", flowers, "--model", tmp_path / "m.safetensors"]
    refused(equimos("learn", *again, *named), "it is vit_tiny_patch16_224 and resnet18")
    refused(equimos("learn", *again, "--model-arg", "2.img_size=16"), "--model-arg img_size=16 (it is 24)")
    done(equimos("learn", *again, "--model-arg", "2.img_size=24"))


def test_two_sites_become_one_model(equimos: Equimos, tmp_path: Path, words: list[Any]) -> None:
    for site, names in (("east", ["rose", "tulip"]), ("west", ["lily", "rose"])):
        images = write_pictures(tmp_path / site, names)
        done(equimos("learn", "--yes", "--images", images, "--model", tmp_path / f"{site}.safetensors", *words))
    both = tmp_path / "both.safetensors"
    done(equimos("merge", tmp_path / "east.safetensors", tmp_path / "west.safetensors", "--out", both))
    assert set(continual.load(both).classes) == {"rose", "tulip", "lily"}


@pytest.mark.slow
def test_export(equimos: Equimos, tmp_path: Path, flowers: Path, words: list[Any]) -> None:
    """The graph and its stand-alone runner prepare an image for each backbone, as the model does."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    from continual.export.onnx_runner import Runner

    model = tmp_path / "m.safetensors"
    done(equimos("learn", "--yes", "--images", flowers, "--model", model, *words, "--symmetry", "D4"))
    done(equimos("export", "--model", model, "--onnx", tmp_path / "m.onnx", "--images", flowers))
    runner, learner = Runner(tmp_path / "m.onnx"), continual.load(model)
    assert (runner.about["version"], runner.shape) == (3, (6, 24, 24))
    assert [part["name"] for part in runner.about["backbones"]] == ["vit_tiny_patch16_224", "resnet18"]
    files = sorted(flowers.glob("*/*.png"))
    expected = learner.predict(files)
    assert [row["answer"] for row in runner.predict(files)] == expected.labels
    assert abs(runner.outputs(files)["scores"] - expected.scores.numpy()).max() < 1e-4
    assert runner.outputs([])["scores"].shape == (0, 2)
    small = done(equimos("export", "--model", model, "--onnx", tmp_path / "small.onnx", "--images", flowers, "--int8"))
    assert "8 bits" in small.stdout + small.stderr


def test_a_config_names_them(equimos: Equimos, config: Path, weights: Path, cnn: Path, tmp_path: Path) -> None:
    text = config.read_text().replace(f"[backbone]\nweights = {json.dumps(str(weights))}\n", "")
    (tmp_path / "weights").mkdir()
    beside = f'[[backbones]]\nweights = {json.dumps(str(weights))}\n[[backbones]]\nweights = "cnn.safetensors"\n'
    config.write_text(text + f"{beside}args = {{ img_size = 24 }}\n[methods.strata]\n")
    found = load_config(config)
    assert [one.weights for one in found.networks] == [weights, cnn]  # a relative path is one beside the config
    dumped = found.model_dump(mode="json")
    assert "backbone" not in dumped
    assert len(dumped["backbones"]) == 2
    said = done(equimos("run", config, "--dry-run", "--out", tmp_path / "out")).stdout
    assert "backbone vit_tiny_patch16_224" in said
    assert "backbone resnet18" in said
    done(equimos("run", config, "--out", tmp_path / "out"))
    record = json.loads(next((tmp_path / "out" / "records").glob("strata*.json")).read_text())
    assert len(record["backbone"]["parts"]) == 2
    done(equimos("report", tmp_path / "out", "--out", tmp_path / "again"))
    refused(equimos("run", config, "methods.mos={}", "--out", tmp_path / "new"), "mos works inside the blocks of one")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ('backbone.name="resnet18.a1_in1k"', "not both"),
        ('backbones=[{name="resnet18.a1_in1k", pretrain={}}]', "pretrain goes with a single"),
        ("backbones=[]", "give one [backbone], or backbones"),
        ('backbones=[{nam="x"}]', "did you mean 'name'"),
        ('backbones=["resnet18.a1_in1k", {weights="x", preprocessing={sice=1}}]', "unknown preprocessing 'sice'"),
    ],
)
def test_configs_that_are_refused(
    equimos: Equimos, config: Path, weights: Path, change: str, said: str, tmp_path: Path
) -> None:
    text = config.read_text().replace(f"[backbone]\nweights = {json.dumps(str(weights))}\n", "")
    config.write_text(f'backbones = ["resnet18.a1_in1k", "resnet34.a1_in1k"]\n{text}')
    refused(equimos("run", config, change, "--out", tmp_path / "out"), said)


def test_a_config_of_one_backbone_is_kept_as_before(config: Path) -> None:
    values = load_config(config).model_dump(mode="json")
    assert "backbones" not in values
    assert values["backbone"]["pretrain"] is None
