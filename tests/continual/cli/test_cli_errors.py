"""What a user can get wrong: one line that helps, exit code 2, and not a byte changed."""

from __future__ import annotations

import errno
import hashlib
import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import continual
from continual.cli import opening
from continual.cli.progress import ProgressBars
from tests.support.refusals import refused

Equimos = Callable[..., Any]
Pictures = Callable[..., Path]

MOS = ("--method", "mos")


@pytest.fixture
def unchanged(model: Path) -> Any:
    """Check after the test that the model and its folder are what they were."""
    before = hashlib.sha256(model.read_bytes()).hexdigest()
    yield model
    assert hashlib.sha256(model.read_bytes()).hexdigest() == before
    assert list(model.parent.iterdir()) == [model]


# Commands and options


def test_unknown_command(equimos: Equimos) -> None:
    refused(equimos("lern"), "unknown command 'lern'", "did you mean 'learn'")


def test_unknown_and_missing_options(equimos: Equimos, flowers: Path) -> None:
    refused(equimos("--nope"), "--nope")
    refused(equimos("predict", "--modle", "x"), "--modle", "--model")
    refused(equimos("learn", "--yes", "--images", flowers), "--model")
    refused(equimos("predict", "--model", "x"), "IMAGE|DIR")
    refused(equimos("learn", "--yes", "-i", flowers, "-m", "x", "--workers", "-1"), "--workers", "0")


def test_unknown_device(equimos: Equimos, unchanged: Path, flowers: Path) -> None:
    for command in (("learn", "--yes", "-i", flowers), ("predict", flowers)):
        refused(equimos(*command, "-m", unchanged, "--device", "gpu"), "'gpu'", "cpu", "auto")


# Images


def test_missing_and_empty_folders(equimos: Equimos, unchanged: Path, tmp_path: Path) -> None:
    refused(equimos("learn", "--yes", "-i", tmp_path / "nowhere", "-m", unchanged), tmp_path / "nowhere")
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(equimos("learn", "--yes", "-i", empty, "-m", unchanged), empty, "one sub-folder of images per class")
    refused(equimos("predict", empty, "-m", unchanged), empty, "no images")
    (empty / "IMG_1.jp2").touch()
    refused(equimos("predict", empty, "-m", unchanged), "no images but", "1 JPEG 2000", "convert")
    refused(equimos("predict", empty / "x.png", "-m", unchanged), "no image at", empty / "x.png")


def test_corrupt_images_are_all_named_before_anything_is_answered(
    equimos: Equimos, unchanged: Path, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = pictures("images", ["rose", "iris"])
    cut, text = folder / "iris" / "1.png", folder / "rose" / "2.png"
    cut.write_bytes(cut.read_bytes()[:100])
    text.write_text("not a picture")
    monkeypatch.setattr(opening, "load_learner", lambda *_: pytest.fail("the model was loaded"))
    refused(equimos("predict", folder, "-m", unchanged, "--json", "-"), "2 of 8", cut, text)


# Methods, settings, backbones


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--method", "moss"), ("unknown method 'moss'", "'mos'")),
        ((*MOS, "--preset", "papre"), ("unknown preset 'papre'", "'paper'")),
        (("--method", "mos_papre"), ("unknown method 'mos_papre'", "'mos'")),
        (("--method", "mos_paper", "--preset", "reference"), ("'mos_paper'", "'reference'", "name one")),
        (("--preset", "paper"), ("unknown preset 'paper'", "the method is strata", "--method")),
        (("--set", "epochs=5"), ("unknown setting 'epochs'", "the method is strata", "--method")),
        ((*MOS, "--set", "epoch=5", "--set", "alpha=2", "--set", "lr=fast"), ("did you mean 'epochs'", "alpha", "lr")),
        ((*MOS, "--set", "alpha=nan"), ("alpha", "nan")),
        ((*MOS, "--set", "adapter_scale=nan", "--set", "lr=inf"), ("adapter_scale", "nan", "lr", "inf")),
        (("--set", "epochs", "--set", "=3"), ("'epochs'", "'=3'", "key=value")),
        (("--set", "epochs=3", "--set", "epochs=4"), ("epochs is given twice",)),
        ((*MOS, "--set", "statistics=ful"), ("statistics", "ful", "'full'")),
        (("--model-arg", "img_size"), ("--model-arg", "img_size", "key=value")),
        (("--model-arg", "img_sise=16"), ("img_sise",)),
    ],
)
def test_wrong_settings(
    equimos: Equimos, tmp_path: Path, flowers: Path, weights: Path, words: tuple[str, ...], said: tuple[str, ...]
) -> None:
    model = tmp_path / "m.safetensors"
    refused(equimos("learn", "--yes", "-i", flowers, "-m", model, "--weights", weights, *words), *said)
    assert not model.exists()


def test_wrong_backbones(equimos: Equimos, tmp_path: Path, flowers: Path, weights: Path) -> None:
    model, text = tmp_path / "m.safetensors", tmp_path / "text.safetensors"
    text.write_text("no weights")

    def learn(*words: object) -> Any:
        return equimos("learn", "--yes", "-i", flowers, "-m", model, *words)

    refused(learn(), "--backbone TAG", "--weights FILE")
    refused(learn("--backbone", "vit_base_patch16_224"), "vit_base_patch16_224.augreg_in21k")
    refused(learn("--backbone", "vit_bse_patch16_224", "--weights", weights), "vit_base_patch16_224")
    refused(learn("--weights", tmp_path / "gone.safetensors"), tmp_path / "gone.safetensors")
    refused(learn("--weights", text), text)
    refused(learn("--weights", weights, "--model-arg", "depth=3"), "depth")
    assert not model.exists()


def test_other_weights_are_refused_with_both_hashes(
    equimos: Equimos, unchanged: Path, flowers: Path, other_weights: Path, pictures: Pictures
) -> None:
    own = continual.load(unchanged).backbone.sha256
    other = continual.load_backbone(weights=other_weights).sha256
    for command in (("learn", "--yes", "-i", pictures("more", ["iris"])), ("predict", flowers)):
        refused(equimos(*command, "-m", unchanged, "--weights", other_weights), own, other)


def test_a_model_goes_on_as_it_was_begun(equimos: Equimos, unchanged: Path, flowers: Path) -> None:
    def learn(*words: object) -> Any:
        return equimos("learn", "--yes", "-i", flowers, "-m", unchanged, *words)

    conflicts = ("--method", "simple_cil", "--backbone", "vit_small_patch16_224", "--model-arg", "img_size=32")
    refused(learn(*conflicts), "--method simple_cil (it is mos)", "vit_small_patch16_224", "img_size=32 (it is 16)")
    refused(learn("--set", "epochs=4", "--set", "lr=0.05"), "epochs=4 (it is 10)")
    refused(learn("--preset", "reference"), "merge=per_forward (it is step)", "consolidate=mean (it is None)")
    refused(learn("--model-arg", "crop_pct=0.5"), "crop_pct=0.5 (it is 0.9)")
    refused(learn("--set", "epoch=4"), "did you mean 'epochs'")


def test_a_diverging_loss(equimos: Equimos, tmp_path: Path, flowers: Path, weights: Path) -> None:
    words = (*MOS, "--weights", weights, "--set", "lr=1e30", "--set", "batch_size=2")
    refused(equimos("learn", "--yes", "-i", flowers, "-m", tmp_path / "m.safetensors", *words), "lower", "lr")
    assert list(tmp_path.iterdir()) == []


def test_a_joint_model_cannot_go_on(
    equimos: Equimos, tmp_path: Path, flowers: Path, weights: Path, pictures: Pictures
) -> None:
    words = ("learn", "--yes", "-m", tmp_path / "m.safetensors", "-i")
    assert equimos(*words, flowers, "--weights", weights, "--method", "joint", "--set", "epochs=0").exit_code == 0
    refused(equimos(*words, pictures("more", ["iris"])), "images are not in the file")


# Model files


def test_no_model(equimos: Equimos, tmp_path: Path, flowers: Path) -> None:
    gone = tmp_path / "gone.safetensors"
    refused(equimos("predict", flowers, "-m", gone), gone)
    refused(equimos("info", "-m", gone), gone)
    refused(equimos("info", "-m", tmp_path), tmp_path)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.2, 0.7, 0.999])
def test_truncated_model(equimos: Equimos, model: Path, flowers: Path, share: float) -> None:
    whole = model.read_bytes()
    model.write_bytes(whole[: int(share * len(whole))])
    left = model.read_bytes()
    for command in (("learn", "--yes", "-i", flowers), ("predict", flowers), ("info",)):
        refused(equimos(*command, "-m", model), model, "restore a copy")
    assert model.read_bytes() == left


def test_files_that_are_no_models(equimos: Equimos, tmp_path: Path, flowers: Path, weights: Path) -> None:
    for strange in (weights, flowers / "rose" / "0.png"):
        before = strange.read_bytes()
        for command in (("learn", "--yes", "-i", flowers), ("predict", flowers), ("info",)):
            refused(equimos(*command, "-m", strange), strange)
        assert strange.read_bytes() == before


HOLLOW = {"method": "mos", "state": {"classes": ["a"]}, "settings": {}, "backbone": {}, "versions": {}}


@pytest.mark.parametrize("broken", ["{}", "[]", json.dumps({**HOLLOW, "method_state": {}, "backbone_embedded": False})])
def test_header_without_its_parts(equimos: Equimos, tmp_path: Path, flowers: Path, broken: str) -> None:
    model = tmp_path / "m.safetensors"
    header = {"format": "equimos-model", "version": "1", "equimos": broken}
    safetensors.torch.save_file({"state/x": torch.zeros(1)}, model, metadata=header)
    for command in (("learn", "--yes", "-i", flowers), ("predict", flowers), ("info",)):
        refused(equimos(*command, "-m", model), model, "restore a copy")


# Places to write to


def test_places_that_cannot_be_written_are_found_at_once(
    equimos: Equimos, unchanged: Path, tmp_path: Path, flowers: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("continual.data.images.check_readable", lambda *_: pytest.fail("work had begun"))
    nowhere = tmp_path / "no" / "folder"
    refused(equimos("learn", "--yes", "-i", flowers, "-m", nowhere / "m.safetensors"), nowhere, "make it first")
    refused(equimos("learn", "--yes", "-i", flowers, "-m", tmp_path), tmp_path, "is a folder")
    for option in ("--json", "--csv"):
        refused(equimos("predict", flowers, "-m", unchanged, option, nowhere / "x"), nowhere, "make it first")
    refused(equimos("predict", flowers, "-m", unchanged, "--json", "-", "--csv", "-"), "standard output")

    def read_only(**_: Any) -> None:
        raise OSError(errno.EROFS, "Read-only file system")

    monkeypatch.setattr(tempfile, "NamedTemporaryFile", read_only)
    refused(equimos("learn", "--yes", "-i", flowers, "-m", unchanged), unchanged.parent, "Read-only file system")
    refused(equimos("info", "-m", unchanged, "--json", tmp_path / "x.json"), tmp_path, "Read-only file system")


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that even root cannot write in")
def test_a_folder_that_is_really_read_only(equimos: Equimos, flowers: Path, weights: Path) -> None:
    refused(
        equimos("learn", "--yes", "-i", flowers, "-m", "/proc/m.safetensors", "--weights", weights),
        "cannot write in /proc",
    )


@pytest.mark.skipif(sys.platform == "win32", reason="needs a limit on the size of files")
@pytest.mark.parametrize("target", ["model", "json", "csv"])
def test_full_disk(equimos: Equimos, unchanged: Path, tmp_path: Path, pictures: Pictures, target: str) -> None:
    """A real write that fails half-way, by a limit on the size of the files this process may write."""
    import resource

    images, old = pictures("more", ["iris"] if target == "model" else [f"{n:050}" for n in range(9)], 4), "old"
    words: dict[str, tuple[object, ...]] = {
        "model": ("learn", "--yes", "-i", images, "-m", unchanged),
        "json": ("predict", images, "-m", unchanged, "--json", tmp_path / "out"),
        "csv": ("predict", images, "-m", unchanged, "--csv", tmp_path / "out"),
    }
    (tmp_path / "out").write_text(old)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        result = equimos(*words[target])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    refused(result, "cannot write", unchanged if target == "model" else tmp_path / "out")
    assert (tmp_path / "out").read_text() == old
    assert sorted(p.name for p in tmp_path.iterdir()) == ["models", "more", "out"]


def test_an_interrupt_says_so_in_one_line(
    equimos: Equimos, unchanged: Path, flowers: Path, pictures: Pictures, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(bars: ProgressBars, stage: str, *_: Any) -> None:
        if stage in ("training", "predicting"):
            raise KeyboardInterrupt

    monkeypatch.setattr(ProgressBars, "__call__", interrupt)
    learning = equimos("learn", "--yes", "-i", pictures("more", ["iris"]), "-m", unchanged)
    assert learning.exit_code == 130
    assert learning.stderr.splitlines()[-1] == f"interrupted: {unchanged} is as it was"
    predicting = equimos("predict", flowers, "-m", unchanged)
    assert (predicting.exit_code, predicting.stdout, predicting.stderr) == (130, "", "interrupted\n")


# Configs


def test_wrong_configs(equimos: Equimos, tmp_path: Path) -> None:
    config = tmp_path / "c.toml"
    for command in ("run", "show"):
        refused(equimos(command, tmp_path / "gone.toml"), tmp_path / "gone.toml")
        config.write_text('title = "x"\ntitel = "y"\n')
        refused(equimos(command, config), config, "'titel'", "did you mean 'title'", "stream")
        refused(equimos(command, config, "titel"), "'titel'", "key=value")


def test_config_for_a_device_that_is_not_here(equimos: Equimos, config: Path) -> None:
    refused(equimos("run", config, "device=gpu", "--out", config.parent / "out"), "'gpu'", "cpu")
    refused(equimos("run", config, "--out", config.parent / "out", "--only", "moss"), "moss")
    assert not (config.parent / "out").exists()


def test_run_folder_of_something_else(equimos: Equimos, config: Path) -> None:
    out = config.parent / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("mine")
    refused(equimos("run", config, "--out", out), out, "--out")
    assert json.dumps([p.name for p in out.iterdir()]) == '["thesis.txt"]'


def test_a_run_says_at_once_that_its_folder_cannot_be_made(equimos: Equimos, config: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for out in (tmp_path / "file" / "runs", tmp_path / "file"):
        refused(equimos("run", config, "--out", out), f"{tmp_path / 'file'} is a file, and a folder is needed")
