"""The command merge: two sites, one model, and what it says of images both have seen."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from continual.cli.merging import joint_images
from continual.lifecycle import contents
from continual.lifecycle.seen_images import SeenImage, SeenImages
from tests.continual.conftest import write_convnet, write_pictures
from tests.support.refusals import refused

Equimos = Callable[..., Any]


def learn(equimos: Equimos, folder: Path, model: Path, weights: Path, *more: str) -> None:
    words = ["--images", folder, "--model", model, "--weights", weights, "--yes", "--hold-out", "0", *more]
    result = equimos("learn", *words)
    assert result.exit_code == 0, result.stderr


def test_two_sites_become_one_model(equimos: Equimos, weights: Path, tmp_path: Path) -> None:
    east, west = write_pictures(tmp_path / "east", ["rose", "tulip"]), write_pictures(tmp_path / "west", ["lily"])
    shutil.copytree(east / "rose", west / "rose")
    for site in (east, west):
        learn(equimos, site, tmp_path / f"{site.name}.safetensors", weights)
    words = [tmp_path / "east.safetensors", tmp_path / "west.safetensors", "--out", tmp_path / "both.safetensors"]
    result = equimos("merge", *words)
    assert result.exit_code == 0, result.stderr
    assert "known to more than one: rose" in result.stdout
    assert "4 images learned by more than one" in result.stdout
    assert "other labels" not in result.stderr
    answers = equimos("predict", "--model", tmp_path / "both.safetensors", west / "lily", "--json", "-")
    assert answers.exit_code == 0, answers.stderr
    again = equimos("learn", "--images", west, "--model", tmp_path / "both.safetensors", "--dry-run")
    assert "nothing new" in again.stdout + again.stderr
    refused = equimos("merge", *words)
    assert refused.exit_code == 2
    assert "is there already" in refused.stderr


def test_models_with_adapters_take_images_of_anything(equimos: Equimos, weights: Path, tmp_path: Path) -> None:
    quick = [word for pair in ("epochs=2", "batch_size=4", "alignment_epochs=2") for word in ("--set", pair)]
    models = []
    for name, classes in {"east": ["rose", "tulip"], "west": ["lily", "iris"]}.items():
        site = write_pictures(tmp_path / name, classes)
        models.append(tmp_path / f"{name}.safetensors")
        learn(equimos, site, models[-1], weights, "--method", "mos", *quick)
    anything = write_pictures(tmp_path / "anything", [f"thing {number}" for number in range(20)], 1)
    few = write_pictures(tmp_path / "few", ["thing"], 3)
    out = ["--out", tmp_path / "both.safetensors"]
    before = sorted(tmp_path.iterdir())
    for more, said in (
        ([], "give some 200 images of anything"),
        (["--images", few], "3 images are too few"),
        (["--images", tmp_path / "gone"], "no image at"),
        (["--images", anything, "--rule", "pcb"], "leave rule 'pcb' out"),
        (["--images", anything, "--arg", "ratio=0.1"], "name it with --rule"),
    ):
        refusal = equimos("merge", *models, *out, *more)
        assert refusal.exit_code == 2
        assert said in refusal.stderr
        assert refusal.stderr.count("error:") == 1
        assert sorted(tmp_path.iterdir()) == before
    result = equimos("merge", *models, *out, "--images", anything)
    assert result.exit_code == 0, result.stderr
    assert "both.safetensors: 4 classes" in result.stdout
    single = equimos("consolidate", "--model", out[1], "--out", tmp_path / "one.safetensors", "--rule", "pcb", "--yes")
    assert single.exit_code == 0, single.stderr
    assert "2 adapters -> 1 (pcb)" in single.stdout


def test_what_cannot_be_merged_writes_nothing(
    equimos: Equimos, weights: Path, other_weights: Path, tmp_path: Path
) -> None:
    site = write_pictures(tmp_path / "site", ["rose", "tulip"])
    learn(equimos, site, tmp_path / "a.safetensors", weights)
    learn(equimos, site, tmp_path / "b.safetensors", other_weights)
    for models, said in (
        (["a"], "two model files"),
        (["a", "b"], "its backbone is"),
        (["a", "site/../a"], "a.safetensors is named twice"),
    ):
        files = [tmp_path / f"{name}.safetensors" for name in models]
        result = equimos("merge", *files, "--out", tmp_path / "both.safetensors")
        assert result.exit_code == 2
        assert said in result.stderr
        assert result.stderr.count("error:") == 1
        assert not (tmp_path / "both.safetensors").exists()


def test_the_command_that_is_named_brings_a_model_there(
    equimos: Equimos, weights: Path, other_weights: Path, tmp_path: Path
) -> None:
    site = write_pictures(tmp_path / "site", ["rose", "tulip"])
    learn(equimos, site, tmp_path / "a.safetensors", weights)
    learn(equimos, site, tmp_path / "b.safetensors", other_weights)
    merge = ["merge", tmp_path / "a.safetensors", tmp_path / "b.safetensors", "--out", tmp_path / "both.safetensors"]
    refusal = " ".join(equimos(*merge).stderr.split())
    port = shlex.split(refusal.partition("equimos port ")[2])
    anything = write_pictures(tmp_path / "anything", [f"thing {number}" for number in range(20)], 1)
    words = [anything if word == "DIR" else word for word in port]
    ported = equimos("port", *words, "--yes")
    assert ported.exit_code == 0, ported.stderr
    assert equimos(*merge).exit_code == 0


def the_port_named_makes_them_merge(equimos: Equimos, line: str, merge: list[Any], folder: Path) -> None:
    """Run the command of a refusal as it is printed, and merge again."""
    anything = write_pictures(folder / "anything", [f"thing {number}" for number in range(40)], 1)
    words = [anything if word == "DIR" else word for word in shlex.split(line.partition("equimos port ")[2])]
    ported = equimos("port", *words, "--yes")
    assert ported.exit_code == 0, ported.stderr
    merged = equimos(*merge)
    assert merged.exit_code == 0, merged.stderr


@pytest.mark.parametrize(
    ("own", "other", "said"),
    [
        ("img_size=32", "img_size=16", "size is (16, 16), not (32, 32)"),
        ("crop_pct=0.9", "crop_pct=0.5", "crop_pct is 0.5, not 0.9"),
    ],
)
def test_models_that_prepare_images_otherwise_are_refused_until_one_is_brought_there(
    equimos: Equimos, tmp_path: Path, own: str, other: str, said: str
) -> None:
    """A CNN has the same weights at every size of images."""
    network, models = write_convnet(tmp_path / "cnn.safetensors"), []
    for name, classes, argument in (("a", ["rose", "tulip"], own), ("b", ["lily", "iris"], other)):
        models.append(tmp_path / f"{name}.safetensors")
        site = write_pictures(tmp_path / name, classes)
        learn(equimos, site, models[-1], network, "--method", "ridge", "--model-arg", argument)
    merge = ["merge", *models, "--out", tmp_path / "both.safetensors"]
    line = refused(equimos(*merge), f"it prepares images in another way ({said})")
    the_port_named_makes_them_merge(equimos, line, merge, tmp_path)


def test_the_command_that_is_named_keeps_the_first_ones_arguments(
    equimos: Equimos, weights: Path, tmp_path: Path
) -> None:
    """Weights at two sizes of a ViT are of two hashes, and the file says a third."""
    models = []
    for name, size in (("a", 24), ("b", 20)):
        models.append(tmp_path / f"{name}.safetensors")
        site = write_pictures(tmp_path / name, ["rose", "tulip"])
        learn(equimos, site, models[-1], weights, "--method", "ridge", "--model-arg", f"img_size={size}")
    merge = ["merge", *models, "--out", tmp_path / "both.safetensors"]
    line = refused(equimos(*merge), "its backbone is", "--model-arg img_size=24")
    the_port_named_makes_them_merge(equimos, line, merge, tmp_path)


def test_what_was_kept_of_images_is_kept_together(equimos: Equimos, weights: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.safetensors" for name in ("a", "b")]
    more = ["--keep-held-out", "2", "--keep-thumbnails", "2", "--hold-out", "0.3"]
    east, west = write_pictures(tmp_path / "a", ["rose", "tulip"], 8), write_pictures(tmp_path / "b", ["lily"], 8)
    shutil.copytree(east / "rose", west / "rose")
    for site, model in zip((east, west), files, strict=True):
        learn(equimos, site, model, weights, *more)
    result = equimos("merge", *files, "--out", tmp_path / "both.safetensors")
    assert result.exit_code == 0, result.stderr
    both, parts = contents.read(tmp_path / "both.safetensors"), [contents.read(file) for file in files]
    held = {image.digest for image in both.seen.images if image.held_out}
    assert {*both.held_out.digests} == held & {mark for part in parts for mark in part.held_out.digests}
    assert len({*both.held_out.labels(both.seen)}) == 3
    assert {*both.thumbnails.digests} == {mark for part in parts for mark in part.thumbnails.digests}
    assert len({*both.thumbnails.digests}) == len(both.thumbnails.digests)


def test_features_under_weights_that_were_merged_are_left_out(equimos: Equimos, weights: Path, tmp_path: Path) -> None:
    files = [tmp_path / f"{name}.safetensors" for name in ("a", "b")]
    quick = [word for pair in ("epochs=1", "batch_size=4") for word in ("--set", pair)]
    more = ["--keep-held-out", "2", "--hold-out", "0.3", "--method", "aper", *quick]
    for file, classes in zip(files, (["rose", "tulip"], ["lily", "iris"]), strict=True):
        learn(equimos, write_pictures(tmp_path / file.stem, classes, 8), file, weights, *more)
    anything = write_pictures(tmp_path / "anything", [f"thing {number}" for number in range(30)], 1)
    result = equimos("merge", *files, "--out", tmp_path / "both.safetensors", "--images", anything)
    assert result.exit_code == 0, result.stderr
    assert "kept of held-out images are of other trained weights, and left out" in result.stderr
    assert not contents.read(tmp_path / "both.safetensors").held_out.digests


def test_images_of_other_labels_elsewhere_are_counted(equimos: Equimos, weights: Path, tmp_path: Path) -> None:
    east, west = write_pictures(tmp_path / "east", ["rose", "tulip"]), write_pictures(tmp_path / "west", ["lily"])
    shutil.copytree(east / "rose", west / "iris")
    files = [tmp_path / "east.safetensors", tmp_path / "west.safetensors"]
    for site, model in zip((east, west), files, strict=True):
        learn(equimos, site, model, weights)
    result = equimos("merge", *files, "--out", tmp_path / "both.safetensors")
    assert result.exit_code == 0, result.stderr
    assert "4 images with other labels in one model than in another (iris and rose: 4)" in result.stderr


def test_an_image_that_was_learned_anywhere_is_held_out_no_longer() -> None:
    here = SeenImages((SeenImage(1, 0, "a", True), SeenImage(2, 0, "a")), ("old", "b"))
    there = SeenImages((SeenImage(1, 0, "a"), SeenImage(2, 0, "a"), SeenImage(3, 0, "b", True)))
    seen, twice = joint_images([here, there])
    assert [(image.digest, image.held_out) for image in seen.images] == [(1, False), (2, False), (3, True)]
    assert seen.forgotten == ("old",)
    assert twice == 1
