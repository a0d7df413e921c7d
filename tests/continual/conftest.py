"""Fixtures of the command line: folders of small pictures, a tiny backbone in a file, a trained model file."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import timm
import torch
from PIL import Image
from typer.testing import CliRunner

from continual.backbones.loading import create
from continual.cli.app import app
from continual.experiments.config import RunConfig, load_config
from continual.seeding import seeded
from tests.support.small_runs import PRETRAINED, config_text

NAME = "vit_tiny_patch16_224"
ARGUMENTS = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}
CONVNET: dict[str, Any] = {"layers": [1, 1, 1, 1], "channels": [8, 16, 24, 32]}

Equimos = Callable[..., Any]
Pictures = Callable[..., Path]


def write_weights(path: Path, seed: int) -> Path:
    """Save a tiny random ViT with its name and arguments as metadata."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        vit = timm.create_model(NAME, num_classes=0, **ARGUMENTS)
    metadata = {"timm": NAME, **{key: json.dumps(value) for key, value in ARGUMENTS.items()}}
    safetensors.torch.save_file(vit.state_dict(), path, metadata=metadata)
    return path


def write_convnet(path: Path, **noted: Any) -> Path:
    """Save a tiny random CNN with its name, arguments and what else is `noted` as metadata."""
    with seeded(0, "weights"):
        network = create("resnet18", CONVNET)
    metadata = {key: json.dumps(value) for key, value in {**CONVNET, **noted}.items()}
    safetensors.torch.save_file(network.state_dict(), path, {"timm": "resnet18", **metadata})
    return path


def write_pictures(folder: Path, classes: Sequence[str], per_class: int = 4) -> Path:
    """Save PNGs in one folder a class; every class has a colour of its own."""
    for name in classes:
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
        draw = torch.Generator().manual_seed(seed)
        colour = torch.rand(3, generator=draw)
        (folder / name).mkdir(parents=True)
        for number in range(per_class):
            picture = (colour + 0.05 * torch.randn(16, 16, 3, generator=draw)).clamp(0, 1) * 255
            Image.fromarray(picture.to(torch.uint8).numpy()).save(folder / name / f"{number}.png")
    return folder


@pytest.fixture
def equimos() -> Equimos:
    """Run a command line in this process; the result has exit_code, stdout and stderr."""
    return lambda *words: CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)


@pytest.fixture
def pictures(tmp_path: Path) -> Pictures:
    """Return make(folder, classes): write_pictures below the test's own folder."""
    return lambda folder, classes, per_class=4: write_pictures(tmp_path / folder, classes, per_class)


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_weights(tmp_path_factory.mktemp("weights") / "tiny.safetensors", seed=0)


@pytest.fixture(scope="session")
def other_weights(weights: Path) -> Path:
    return write_weights(weights.with_name("other.safetensors"), seed=1)


@pytest.fixture(scope="session")
def flowers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes: rose and tulip."""
    return write_pictures(tmp_path_factory.mktemp("images") / "flowers", ["rose", "tulip"])


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory, weights: Path, flowers: Path) -> Path:
    """A MOS model of the flowers, made once by the command."""
    torch.set_num_threads(1)
    model = tmp_path_factory.mktemp("trained") / "model.safetensors"
    words = ["learn", "--yes", "--images", flowers, "--model", model, "--weights", weights, "--device", "cpu"]
    words += ["--method", "mos", "--model-arg", "crop_scale=[0.5, 1.0]"]
    settings = ["epochs=10", "batch_size=4", "lr=0.05", "bottleneck=4", "alignment_epochs=2"]
    words += [word for setting in settings for word in ("--set", setting)]
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    return model


@pytest.fixture
def model(tmp_path: Path, trained: Path) -> Path:
    """A copy of the trained model, in a folder of its own."""
    (tmp_path / "models").mkdir()
    return Path(shutil.copy(trained, tmp_path / "models" / "model.safetensors"))


@pytest.fixture
def config(tmp_path: Path, weights: Path) -> Path:
    """A config that runs in a moment: two experiences of one class each, prototypes only."""
    write_pictures(tmp_path / "images", ["rose", "iris"])
    text = 'title = "Tiny"\n[data]\nsource = "folder"\ntrain = "images"\ntest = "images"\n[stream]\nclasses = 1\n'
    text += f"[backbone]\nweights = {json.dumps(str(weights))}\n[methods.simple_cil]\n"
    (tmp_path / "tiny.toml").write_text(text)
    return tmp_path / "tiny.toml"


@pytest.fixture
def blob_run(tmp_path: Path, blobs: Any) -> Callable[..., RunConfig]:
    """Return make(rest, classes, seeds): a config on blobs, their folders and the file `c.toml` beside them."""

    def make(rest: str, classes: int, seeds: Sequence[int] = (1,)) -> RunConfig:
        for split, seed in (("train", 0), ("test", 1)):
            for label in range(classes):
                (tmp_path / split / f"class{label}").mkdir(parents=True)
                for number, image in enumerate(blobs([label], 4, seed)[0]):
                    path = tmp_path / split / f"class{label}" / f"{number}.png"
                    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
        (tmp_path / "c.toml").write_text(config_text(PRETRAINED + rest, seeds))
        return load_config(tmp_path / "c.toml")

    return make


@pytest.fixture
def tiny_clip(tmp_path: Path) -> str:
    """The name of a tiny CLIP of open_clip's own classes, known to it for the test."""
    import open_clip

    tower = {"image_size": 16, "layers": 1, "width": 32, "head_width": 16, "patch_size": 4}
    text = {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
    (tmp_path / "tiny-clip.json").write_text(json.dumps({"embed_dim": 16, "vision_cfg": tower, "text_cfg": text}))
    open_clip.add_model_config(tmp_path / "tiny-clip.json")
    return "tiny-clip"
