"""`equimos learn --one-class`, and what `predict` says of such a model."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import continual
from continual import RidgeLearner
from continual.backbones.loading import load_backbone
from continual.testing import TINY_ARGS, coloured_squares
from tests.support.refusals import refused

Equimos = Callable[..., Any]
Pictures = Callable[..., Path]


@pytest.fixture
def good(pictures: Pictures) -> Path:
    """A folder of twenty good images, without class folders."""
    return pictures("shots", ["rose"], 20) / "rose"


def done(result: Any) -> Any:
    assert result.exit_code == 0, result.stderr
    return result


def test_a_models_life(equimos: Equimos, good: Path, weights: Path, pictures: Pictures, tmp_path: Path) -> None:
    model = tmp_path / "m.safetensors"
    words = ("--model", model, "--one-class", "--yes")
    said = done(equimos("learn", "--images", good, "--weights", weights, *words)).stderr
    assert "new class: good (16)" in said
    assert "by 16 good images, false-alarm rates are known down to 6.2%" in said
    assert "of 4 would be called unusual, 5% are to be expected" in said

    others = pictures("others", ["iris", "oak"], 3)
    shown = done(equimos("predict", good, others, "--model", model))
    assert "unusual: an anomaly above" in shown.stderr
    assert "as 5.0% of good images have" in shown.stderr
    rows = json.loads(done(equimos("predict", others, "--model", model, "--json", "-")).stdout)
    assert all(row["unknown"] and row["anomaly"] > row["anomaly_threshold"] > 0 for row in rows)
    assert all(row["probability"] is None for row in rows)
    strict = ("--json", "-", "--false-alarm-rate", "0.3")
    assert (
        json.loads(done(equimos("predict", others, "--model", model, *strict)).stdout)[0]["anomaly_threshold"]
        < (rows[0]["anomaly_threshold"])
    )
    never = ("--false-alarm-rate", "1e-6")
    assert "above inf" in done(equimos("predict", others, "--model", model, *never)).stderr
    row = json.loads(done(equimos("predict", others, "--model", model, *never, "--json", "-")).stdout)[0]
    assert row["anomaly_threshold"] is None
    assert not row["unknown"]
    done(equimos("predict", others, "--model", model, "--parquet", tmp_path / "answers"))

    # Later good images, from a folder of another name, are of the same class.
    more = pictures("later", ["rose"], 24) / "rose"
    for number in range(20):
        (more / f"{number}.png").unlink()
    done(equimos("learn", "--images", more, *words))
    assert continual.load(model).classes == ("good",)
    # Of two classes it is a model as any other.
    done(equimos("learn", "--images", others, "--model", model, "--yes", "--class", "oak"))
    assert "anomaly" not in done(equimos("predict", others, "--model", model)).stdout


def test_several_kinds_of_good_images_are_classes(
    equimos: Equimos, pictures: Pictures, weights: Path, tmp_path: Path
) -> None:
    kinds = pictures("kinds", ["rose", "iris"], 10)
    model = tmp_path / "m.safetensors"
    said = done(equimos("learn", "-i", kinds, "-m", model, "--weights", weights, "--one-class", "--yes")).stderr
    assert "2 new classes" in said
    assert "16 good images" in said
    row = json.loads(done(equimos("predict", kinds, "-m", model, "--json", "-", "--false-alarm-rate", "0.1")).stdout)[0]
    assert row["unknown"] is not None
    assert row["anomaly"] is None


def test_a_single_class_is_remarked_on(equimos: Equimos, good: Path, weights: Path, tmp_path: Path) -> None:
    words = ("-i", good.parent, "-m", tmp_path / "m", "--weights", weights, "--dry-run")
    assert "rose is the only class, and so every answer; `predict` says" in done(equimos("learn", *words)).stdout
    other = done(equimos("learn", *words, "--method", "simple_cil")).stdout
    assert "with strata or ridge, --one-class learns" in other
    assert "only class" not in done(equimos("learn", *words, "--one-class")).stdout


@pytest.mark.parametrize("name", ["bolt", 7], ids=str)
def test_a_model_without_records_of_its_images_learns_more_of_its_class_when_it_is_named(
    equimos: Equimos, good: Path, weights: Path, tmp_path: Path, name: str | int
) -> None:
    """As one that was made in Python: which images it learned is not recorded."""
    model = tmp_path / "m.safetensors"
    learner = RidgeLearner(load_backbone("vit_tiny_patch16_224", weights=weights, **TINY_ARGS))
    learner.learn(coloured_squares([0], 12)[0], [name] * 12)
    learner.save(model)
    words = ("learn", "-i", good, "-m", model, "--one-class", "--yes")
    said = done(equimos(*words))
    assert "nothing new" in said.stdout
    assert f"is not recorded: {name}; --class NAME learns all that is there" in said.stderr
    refused(equimos(*words, "--class", "nut"), "no class folders", f"all images are of '{name}'", "leave --class out")
    done(equimos(*words, "--class", name))
    assert continual.load(model).classes == (name,)
    assert done(equimos(*words)).stdout.startswith(f"{model}: nothing new"), "now it is recorded"


def test_good_images_that_were_forgotten_are_learned_again_when_they_are_named(
    equimos: Equimos, good: Path, weights: Path, tmp_path: Path, pictures: Pictures
) -> None:
    words = ("-m", tmp_path / "m.safetensors", "--yes")
    done(equimos("learn", "-i", good, *words, "--one-class", "--weights", weights))
    done(equimos("learn", "-i", pictures("others", ["iris", "oak"], 8), *words))
    done(equimos("forget", "good", *words[:2]))
    said = done(equimos("learn", "-i", good, *words, "--one-class"))
    assert "they were forgotten: good; --class NAME learns them again" in said.stderr
    done(equimos("learn", "-i", good, *words, "--one-class", "--class", "good"))
    assert continual.load(words[1]).classes == ("iris", "oak", "good")


def test_what_cannot_be_is_refused(
    equimos: Equimos, good: Path, weights: Path, pictures: Pictures, tmp_path: Path
) -> None:
    words = ("-m", tmp_path / "m", "--weights", weights, "--yes")
    refused(equimos("learn", "-i", good, *words), "20 images and no class folders", "--one-class")
    refused(
        equimos("learn", "-i", good, *words, "--one-class", "--class", "rose"), "no class folders", "leave --class out"
    )
    for method in ("simple_cil", "mos"):
        refused(equimos("learn", "-i", good, *words, "--one-class", "--method", method), f"{method} cannot say")
    group = ("--symmetry", "C4", "--set", "symmetry=score_averaging")
    refused(equimos("learn", "-i", good, *words, "--one-class", *group), "one answer to all views")
    few = pictures("few", ["rose"], 8) / "rose"
    refused(equimos("learn", "-i", few, *words, "--one-class"), "7 good images of good", "8 at least", "--hold-out 0")
    done(equimos("learn", "-i", few, *words, "--one-class", "--hold-out", "0"))
    empty = tmp_path / "empty"
    empty.mkdir()
    refused(equimos("learn", "-i", empty, *words, "--one-class"), "holds no images")
    shutil.rmtree(few)
