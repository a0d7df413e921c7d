"""The commands `equimos concept ...`, `learn --ignoring` and `learn --unlabelled`."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

import continual
from continual.errors import InputError
from continual.experiments.named_concepts import ranked, stand_in
from tests.continual.conftest import write_pictures
from tests.support.refusals import refused

Equimos = Callable[..., Any]
Pictures = Callable[..., Path]


@pytest.fixture
def logo(tmp_path: Path) -> Path:
    Image.new("RGBA", (8, 8), (255, 0, 0, 255)).save(tmp_path / "logo.png")
    return tmp_path / "logo.png"


@pytest.fixture
def parts(equimos: Equimos, pictures: Pictures, weights: Path, tmp_path: Path) -> Path:
    """A strata model of three classes."""
    model = tmp_path / "parts.safetensors"
    folder = pictures("parts", ["bolt", "nut", "washer"], 8)
    words = ("learn", "--yes", "--images", folder, "--model", model, "--weights", weights, "--hold-out", "0")
    assert equimos(*words).exit_code == 0
    return model


def test_checked_suppressed_and_allowed_again(
    equimos: Equimos, pictures: Pictures, weights: Path, parts: Path, logo: Path
) -> None:
    pool, before = pictures("others", ["iris", "rose"], 6), parts.read_bytes()
    how = ("--model", parts, "--stamp", logo, "--images", pool, "--size", "0.5")
    checked = equimos("concept", "check", *how, "--json", "-")
    assert checked.exit_code == 0, checked.stderr
    found = json.loads(checked.stdout)
    assert (found["name"], found["present"], found["paired"]) == ("logo", 12, True)
    assert parts.read_bytes() == before
    assert "a linear probe finds it" in equimos("concept", "check", *how).stdout
    done = equimos("concept", "suppress", *how)
    assert done.exit_code == 0, done.stderr
    assert "logo suppressed; answers that change with it" in done.stdout
    images = sorted(pool.rglob("*.png"))
    less = continual.load(parts, weights=weights).predict(images).scores
    assert "suppressed logo" in equimos("history", "--model", parts).stdout
    allowed = equimos("concept", "allow", "logo", "--model", parts)
    assert allowed.exit_code == 0, allowed.stderr
    (parts.parent / "old.safetensors").write_bytes(before)
    plain = continual.load(parts.parent / "old.safetensors", weights=weights).predict(images).scores
    now = continual.load(parts, weights=weights).predict(images).scores
    assert torch.equal(now, plain)
    assert not torch.equal(less, plain)
    assert "suppresses no 'logo': nothing at all" in equimos("concept", "allow", "logo", "--model", parts).stderr


def test_names_with_blanks_are_quoted_and_shown(equimos: Equimos, pictures: Pictures, parts: Path, logo: Path) -> None:
    named = logo.rename(logo.with_name("my logo.png"))
    how = ("--model", parts, "--stamp", named, "--images", pictures("others", ["iris", "rose"], 6), "--size", "0.5")
    assert "ignored  " not in equimos("info", "--model", parts).stdout
    done = equimos("concept", "suppress", *how)
    assert done.exit_code == 0, done.stderr
    assert "my logo" in next(line for line in equimos("info", "-m", parts).stdout.splitlines() if "ignored  " in line)
    assert json.loads(equimos("info", "-m", parts, "--json", "-").stdout)["ignored"] == ["my logo"]
    words = shlex.split(done.stderr.partition("`equimos ")[2].partition("`")[0])
    allowed = equimos(*words)
    assert allowed.exit_code == 0, allowed.stderr


def test_a_model_of_many_channels_has_no_concepts(equimos: Equimos, weights: Path, logo: Path, tmp_path: Path) -> None:
    bands = tmp_path / "bands"
    for name in ("clay", "sand"):
        (bands / name).mkdir(parents=True)
        for number in range(8):
            draw = np.random.default_rng([ord(name[0]), number])
            np.save(bands / name / f"{number}.npy", draw.integers(0, 255, (16, 16, 5), np.uint8))
    model = tmp_path / "m.safetensors"
    words = ("learn", "--yes", "--images", bands, "--model", model, "--weights", weights, "--model-arg", "in_chans=5")
    refused(equimos(*words, "--ignoring", logo), "looked for in pictures, and the model takes images of 5 channels")
    assert not model.exists()
    learned = equimos(*words)
    assert learned.exit_code == 0, learned.stderr
    for more in (
        ("check", "--with", bands / "clay", "--without", bands / "sand"),
        ("suppress", "--stamp", logo, "--images", bands),
        ("find", "--images", bands, "--word", "a logo", "--word", "rust"),
    ):
        refused(equimos("concept", *more, "--model", model), "looked for in pictures, and the model takes images of 5")


def test_an_edit_of_mlps_is_said_to_be_experimental_and_can_be_taken_back(
    equimos: Equimos, pictures: Pictures, weights: Path, parts: Path, logo: Path
) -> None:
    pool = pictures("others", ["iris", "rose"], 6)
    images = sorted(pool.rglob("*.png"))
    plain = continual.load(parts, weights=weights).predict(images).scores
    how = ("--model", parts, "--stamp", logo, "--images", pool, "--size", "0.5", "--edit", "mlp")
    done = equimos("concept", "suppress", *how, "--strength", "-1")
    assert done.exit_code == 0, done.stderr
    assert "--edit mlp is experimental" in done.stderr
    assert "logo suppressed; answers that change with it" in done.stdout
    assert "suppressed logo by an edit of MLPs" in equimos("history", "--model", parts).stdout
    assert not torch.equal(continual.load(parts, weights=weights).predict(images).scores, plain)
    more = pictures("more", ["screw"], 4)
    kept = equimos("learn", "--yes", "--images", more, "--model", parts, "--keep-held-out", "5", "--hold-out", "0.5")
    assert kept.exit_code == 2
    assert "this model answers by an edited one" in kept.stderr
    assert equimos("concept", "allow", "logo", "--model", parts).exit_code == 0
    assert torch.equal(continual.load(parts, weights=weights).predict(images).scores, plain)


def test_folders_with_and_without_it(equimos: Equimos, pictures: Pictures, parts: Path) -> None:
    marked, plain = pictures("marked", ["iris"], 8), pictures("plain", ["rose"], 8)
    how = ("--model", parts, "--with", marked, "--without", plain)
    assert "how far answers with and without it differ" in equimos("concept", "check", *how).stdout
    done = equimos("concept", "suppress", *how, "--name", "ground")
    assert done.exit_code == 0, done.stderr
    assert "ground suppressed" in done.stdout


def test_what_cannot_be_is_one_error_and_nothing_is_written(
    equimos: Equimos, pictures: Pictures, weights: Path, parts: Path, logo: Path, tmp_path: Path
) -> None:
    pool, few = pictures("others", ["iris", "rose"], 6), pictures("few", ["iris"], 3)
    clear = tmp_path / "clear.png"
    Image.new("RGBA", (8, 8), (0, 0, 0, 0)).save(clear)
    sumless = tmp_path / "sumless.safetensors"
    learn = ("learn", "--yes", "--images", pool, "--model", sumless, "--weights", weights, "--method", "simple_cil")
    assert equimos(*learn).exit_code == 0
    before = {path: path.read_bytes() for path in (parts, sumless)}
    for words, said in (
        (("--model", parts, "--stamp", clear, "--images", pool), "clear changes no feature of these images"),
        (("--model", parts, "--stamp", logo, "--images", few), "needs 8 images of each kind"),
        (("--model", parts, "--stamp", logo), "name it by --stamp FILE and --images DIR, or"),
        (("--model", parts, "--stamp", logo, "--images", pool, "--with", pool), "name it by --stamp FILE"),
        (("--model", parts, "--stamp", tmp_path / "gone.png", "--images", pool), "no image at"),
        (
            ("--model", sumless, "--stamp", logo, "--images", pool),
            "it remembers: take strata, ridge, ranpac, mos or slca\n",
        ),
        (("--model", parts, "--stamp", logo, "--images", pool, "--strength", "-1"), "strength is a number above 0"),
        (("--model", parts, "--stamp", clear, "--images", pool, "--edit", "mlp"), "clear changes no token of these"),
        (("--model", parts, "--stamp", logo, "--images", pool, "--edit", "mpl"), "'head' or the 'mlp', not 'mpl'"),
    ):
        found = equimos("concept", "suppress", *words)
        assert found.exit_code == 2
        assert said in found.stderr
        assert found.stderr.count("error:") == 1
        assert {path: path.read_bytes() for path in before} == before
        assert not parts.with_name(parts.name + ".history").exists()


def test_learning_without_a_stamp(equimos: Equimos, pictures: Pictures, weights: Path, parts: Path, logo: Path) -> None:
    more = pictures("more", ["screw"], 10)
    done = equimos("learn", "--yes", "--images", more, "--model", parts, "--ignoring", logo, "--hold-out", "0")
    assert done.exit_code == 0, done.stderr
    assert "ignoring logo" in equimos("history", "--model", parts).stdout
    learner: Any = continual.load(parts, weights=weights)
    assert [one.name for one in learner.state.ignored] == ["logo"]
    assert learner.classes == ("bolt", "nut", "washer", "screw")


def test_unlabelled_images_are_planned_counted_and_noted(
    equimos: Equimos, pictures: Pictures, weights: Path, tmp_path: Path
) -> None:
    labelled, model = pictures("labelled", ["iris", "rose"], 4), tmp_path / "m.safetensors"
    loose = tmp_path / "loose"
    loose.mkdir()
    for number, path in enumerate(sorted(write_pictures(tmp_path / "all", ["iris", "rose"], 12).rglob("*.png"))):
        shutil.copy(path, loose / f"{number}.png")  # the first four of a class are those that have labels
    words = ("learn", "--images", labelled, "--model", model, "--weights", weights, "--unlabelled", loose)
    plan = equimos(*words, "--dry-run", "--hold-out", "0.25")
    assert plan.exit_code == 0, plan.stderr
    assert "unlabelled: 16 images, 8 left out that have labels or cannot be read" in plan.stdout
    done = equimos(*words, "--yes", "--hold-out", "0.25", "--set", "eval_batch_size=8")
    assert done.exit_code == 0, done.stderr
    assert "of 16 images used, the others are unlike all classes" in done.stderr
    assert "unlabelled image" in equimos("history", "--model", model).stdout
    assert continual.load(model, weights=weights).classes == ("iris", "rose")
    before = model.read_bytes()
    more = pictures("more", ["tulip"], 4)
    refused = equimos("learn", "--yes", "--images", more, "--model", model, "--unlabelled", labelled)
    assert refused.exit_code == 2
    assert "holds no images without labels" in refused.stderr
    assert model.read_bytes() == before


def test_things_are_ranked_by_clip(tiny_clip: str, parts: Path, weights: Path, pictures: Pictures) -> None:
    learner: Any = continual.load(parts, weights=weights)
    images = sorted(pictures("pool", ["bolt", "nut", "washer"], 4).rglob("*.png"))
    rows = ranked(learner, images, ["a logo", "rust", "sky"], tiny_clip, pretrained=False)
    assert {row.name for row in rows} == {"a logo", "rust", "sky"}
    assert [row.spread for row in rows] == sorted((row.spread for row in rows), reverse=True)
    assert {row.most for row in rows} <= set(learner.classes)
    with pytest.raises(InputError, match="needs 8 images, and there are 3"):
        ranked(learner, images[:3], ["a logo", "rust"], tiny_clip, pretrained=False)


def test_the_stand_in_finds_what_scores_follow() -> None:
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(300, 6, generator=draw)
    slopes = torch.tensor([[2.0, 0, 0, 0, 0, 0], [-2.0, 0, 0, 0, 0, 0]])
    found = stand_in(x, (x @ slopes.mT).softmax(-1))
    assert found[:, 0].abs().min() > 10 * found[:, 1:].abs().max()


def test_find_says_what_it_needs(
    equimos: Equimos, pictures: Pictures, parts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = pictures("pool", ["bolt"], 8)
    words = ("concept", "find", "--model", parts, "--images", pool)
    assert "give --word twice or more" in equimos(*words, "--word", "logo").stderr
    unknown = equimos(*words, "--word", "logo", "--word", "sky", "--clip", "ViT-B-32.no_such_tag")
    assert "or give --clip-weights FILE" in unknown.stderr
    monkeypatch.setitem(__import__("sys").modules, "open_clip", None)
    found = equimos(*words, "--word", "logo", "--word", "sky")
    assert found.exit_code == 2
    assert 'pip install "equimos[clip]"' in found.stderr
