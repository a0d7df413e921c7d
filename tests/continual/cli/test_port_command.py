"""The command port: what it says, asks and writes, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from continual.learning import model_file, porting
from continual.lifecycle import contents, versions
from tests.continual.conftest import ARGUMENTS, NAME, write_pictures
from tests.support.refusals import refused

Equimos = Callable[..., Any]
Pictures = Callable[..., Path]


@pytest.fixture
def updated(weights: Path, tmp_path: Path) -> Path:
    """The backbone's weights after an update that moved them a little."""
    draw = torch.Generator().manual_seed(0)
    moved = {
        k: w + 0.02 * torch.randn(w.shape, generator=draw) for k, w in safetensors.torch.load_file(weights).items()
    }
    safetensors.torch.save_file(moved, tmp_path / "updated.safetensors")
    return tmp_path / "updated.safetensors"


@pytest.fixture
def others(pictures: Pictures) -> Path:
    """Images to map by."""
    return pictures("others", [f"thing {number}" for number in range(30)], 1)


def learned(equimos: Equimos, images: Path, model: Path, weights: Path, method: str, *more: str) -> None:
    words = ["--images", images, "--model", model, "--weights", weights, "--yes", "--method", method, *more]
    result = equimos("learn", *words)
    assert result.exit_code == 0, result.stderr


@pytest.mark.parametrize("method", ["ridge", "strata", "simple_cil", "mos"])
def test_a_port_is_a_version_that_learns_on(
    equimos: Equimos, weights: Path, updated: Path, others: Path, tmp_path: Path, method: str
) -> None:
    site, model = write_pictures(tmp_path / "site", ["rose", "tulip"], 6), tmp_path / "m.safetensors"
    more = ["--set", "epochs=2", "--set", "batch_size=4"] if method == "mos" else []
    learned(equimos, site, model, weights, method, *more)
    result = equimos("port", "--model", model, "--to-weights", updated, "--images", others, "--yes")
    assert result.exit_code == 0, result.stderr
    assert "by 30 images" in result.stderr
    assert "variance of the new features that the old ones explain" in result.stderr
    # Said by statistics, or that nothing can be said.
    assert ("about" in result.stderr) == (method != "simple_cil"), result.stderr
    assert ("Held-out images of them among --images would tell" in result.stderr) == (method == "simple_cil")
    header = contents.read(model).header
    assert header["backbone"]["weights_file"] == str(updated)
    assert header["backbone"]["model_args"] == ARGUMENTS
    assert header["notes"]["event"].startswith(f"ported from {NAME} (")
    assert [version.current for version in versions.versions(model)] == [False, True]
    answers = equimos("predict", site / "rose", "--model", model, "--json", "-")
    assert answers.exit_code == 0, answers.stderr
    again = equimos("learn", "--images", write_pictures(tmp_path / "more", ["lily"]), "--model", model, "--yes")
    assert again.exit_code == 0, again.stderr
    assert equimos("rollback", "1", "--model", model).exit_code == 0
    assert contents.read(model).header["backbone"]["weights_file"] == str(weights)


def test_held_out_images_tell_what_broke(
    equimos: Equimos, weights: Path, updated: Path, others: Path, tmp_path: Path
) -> None:
    site, model = write_pictures(tmp_path / "site", ["rose", "tulip"], 10), tmp_path / "m.safetensors"
    learned(equimos, site, model, weights, "simple_cil", "--hold-out", "0.3", "--keep-held-out", "2")
    before = contents.read(model).held_out
    same = ("port", "--model", model, "--to-weights", weights, "--images", others, "--yes")
    copied = equimos(*same, "--out", tmp_path / "copy")
    assert copied.exit_code == 0, copied.stderr
    assert contents.read(tmp_path / "copy").held_out.digests == before.digests
    for name in ("rose", "tulip"):
        (site / name).rename(others / f"our {name}")
    result = equimos("port", "--model", model, "--to-weights", updated, "--images", others, "--yes")
    assert result.exit_code == 0, result.stderr
    assert "held-out images of classes known before: 100.0% of 6 right, 100.0% before; 0 broke" in result.stderr
    assert "by 44 images" in result.stderr  # 30 of anything, and 14 that were learned
    assert "what was kept of images (features, thumbnails) is the old backbone's, and left out" in result.stderr
    assert not contents.read(model).held_out.digests
    assert contents.read(model).header["notes"]["held_out"]["images"] == 6


def test_a_map_is_not_judged_by_images_it_was_fitted_to(
    equimos: Equimos, weights: Path, updated: Path, tmp_path: Path
) -> None:
    site, model = write_pictures(tmp_path / "site", ["rose", "tulip"], 14), tmp_path / "m.safetensors"
    learned(equimos, site, model, weights, "simple_cil", "--hold-out", "0.4", "--keep-thumbnails", "2")
    held_out = sum(image.held_out for image in contents.read(model).seen.images)
    assert 28 - held_out < 20
    result = equimos("port", "--model", model, "--to-weights", updated, "--images", site, "--yes")
    assert result.exit_code == 0, result.stderr
    assert f"without them there are {28 - held_out}, and 20 are needed" in result.stderr
    assert "held-out images of classes known before" not in result.stderr
    assert "held_out" not in contents.read(model).header["notes"]
    assert "thumbnails) is the old backbone's, and left out" in result.stderr
    assert not contents.read(model).thumbnails.digests


def test_to_a_file_of_its_own_and_not_at_all(
    equimos: Equimos, weights: Path, updated: Path, others: Path, tmp_path: Path
) -> None:
    model, out = tmp_path / "m.safetensors", tmp_path / "new.safetensors"
    learned(equimos, write_pictures(tmp_path / "site", ["rose", "tulip"]), model, weights, "strata")
    before = model.read_bytes()
    words = ["port", "--model", model, "--images", others]
    shown = equimos(*words, "--to-weights", updated, "--dry-run")
    assert shown.exit_code == 0, shown.stderr
    assert "variance of the new features" in shown.stderr
    assert equimos(*words, "--to-weights", updated, "--out", out, "--yes").exit_code == 0
    same = equimos(*words, "--to-weights", weights, "--yes")
    assert same.exit_code == 0
    assert "its backbone is this one already" in same.stdout
    assert model.read_bytes() == before
    assert not versions.folder_of(model).exists()
    assert model_file.read_header(out)["backbone"]["weights_file"] == str(updated)
    refused(equimos(*words, "--to-weights", updated, "--out", out, "--yes"), "is there already")
    copied = equimos(*words, "--to", weights, "--out", tmp_path / "copy.safetensors", "--yes")
    assert copied.exit_code == 0, copied.stderr
    assert all(
        torch.equal(a, b)
        for a, b in zip(*(
            model_file.part(model_file.read(path)[0], "state").values()
            for path in (model, tmp_path / "copy.safetensors")
        ), strict=True)
    )  # fmt: skip


def test_too_many_flips_are_not_kept_and_keep_answers_is_named(
    equimos: Equimos, model: Path, updated: Path, others: Path
) -> None:
    before = model.read_bytes()
    words = ["port", "--model", model, "--images", others, "--to-weights", updated, "--max-flips", "0", "--yes"]
    result = equimos(*words)
    assert result.exit_code == 1, result.stderr
    assert "--keep-answers 1 holds the head to the answers it gave" in result.stderr
    assert model.read_bytes() == before


def test_what_cannot_be_ported_writes_nothing(
    equimos: Equimos, model: Path, weights: Path, updated: Path, others: Path, flowers: Path, tmp_path: Path
) -> None:
    before, there = model.read_bytes(), sorted(model.parent.iterdir())
    finetuned, ridge = tmp_path / "f.safetensors", tmp_path / "r.safetensors"
    learned(equimos, flowers, finetuned, weights, "finetune", "--set", "epochs=1", "--set", "batch_size=4")
    learned(equimos, flowers, ridge, weights, "ridge")
    deeper = tmp_path / "deeper.safetensors"
    state = safetensors.torch.load_file(weights)
    more = {k.replace("blocks.1.", "blocks.2."): w.clone() for k, w in state.items() if k.startswith("blocks.1.")}
    safetensors.torch.save_file({**state, **more}, deeper)
    for words, said in (
        (["--model", model], ["port needs the new backbone"]),
        (["--model", model, "--to-weights", updated, "--keep-answers", "nan"], ["--keep-answers"]),
        (["--model", model, "--to-weights", deeper, "--model-arg", "depth=3"], ["another architecture"]),
        (["--model", model, "--to-weights", updated, "--images", flowers], ["8 images are too few to map features by"]),
        (["--model", model, "--to-weights", updated, "--images", tmp_path / "none"], ["none"]),
        (["--model", finetuned, "--to-weights", updated], ["remembers nothing of its classes but a head"]),
        (["--model", ridge, "--to-weights", updated, "--keep-answers", "1"], ["goes with methods that align a head"]),
        (["--model", ridge, "--to", "no_such_net.x"], ["unknown timm model"]),
        (["--model", ridge, "--to", "gone.safetensors"], ["no weights file at gone.safetensors"]),
        (["--model", ridge, "--to", ridge], ["is a model, not a backbone"]),
        (["--model", tmp_path / "gone.safetensors", "--to-weights", updated], ["no model file"]),
    ):
        images = [] if "--images" in words else ["--images", others]
        refused(equimos("port", *words, *images, "--yes"), *said)
    assert model.read_bytes() == before
    assert sorted(model.parent.iterdir()) == there


def test_without_a_terminal_it_says_how_to_answer(equimos: Equimos, model: Path, updated: Path, others: Path) -> None:
    refused(equimos("port", "--model", model, "--images", others, "--to-weights", updated), "--yes keeps it")


def test_a_backbone_of_which_too_little_is_explained_is_refused(
    equimos: Equimos, model: Path, other_weights: Path, others: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(porting, "LEAST_EXPLAINED", 1.01)
    before = model.read_bytes()
    words = ["port", "--model", model, "--images", others, "--to-weights", other_weights, "--yes"]
    refused(equimos(*words), "below 101% a ported model", "learn from scratch on the new backbone")
    assert model.read_bytes() == before
