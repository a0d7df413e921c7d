"""Features of held-out images that are kept: what broke is known exactly when the images are gone."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import continual
from continual.lifecycle import contents
from continual.lifecycle.fingerprints import digest
from continual.lifecycle.held_out_features import HeldOutFeatures, chosen
from continual.lifecycle.new_images import Picture
from continual.lifecycle.seen_images import SeenImage, SeenImages
from continual.methods import method, methods
from continual.testing import coloured_squares, tiny_backbone
from tests.support.refusals import refused

Equimos = Callable[..., Any]
Pictures = Callable[..., Path]
FIXED = [name for name in methods() if method(name).fixed_features]


@pytest.mark.parametrize("name", FIXED)
def test_answers_by_kept_features_are_those_by_images(name: str, tmp_path: Path) -> None:
    """Also of experiences that came after they were kept, and after a trip through a file."""
    known = method(name).settings_type.model_fields
    quick = {"epochs": 1, "batch_size": 4, "bottleneck": 4, "projection": 64}
    learner = method(name)(tiny_backbone(), **{key: value for key, value in quick.items() if key in known})
    learner.learn(*coloured_squares([0, 1, 2], 4))
    paths = {}
    for number, image in enumerate(coloured_squares([0, 1, 2, 5, 6], 4, seed=1)[0]):
        path = tmp_path / f"{number}.png"
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
        paths[digest(path.read_bytes())] = path
    held = HeldOutFeatures.of(learner, paths)
    assert held.answers(learner) == learner.predict(list(paths.values())).labels
    learner.learn(*coloured_squares([3, 5], 4))
    again = HeldOutFeatures.unpack(held.pack())
    assert again.answers(learner) == learner.predict(list(paths.values())).labels
    marks = list(paths)
    kept = again.only([marks[3], marks[0]]).plus(again.only([marks[7]]))
    assert kept.digests == (marks[0], marks[3], marks[7])
    assert again.without(marks).answers(learner) == []


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--method", "mos"], "mos"),
        (["--method", "ease"], "ease"),
        (["--method", "ridge", "--symmetry", "C4"], "group=C4"),
    ],
    ids=str,
)
def test_models_whose_answers_follow_from_more_say_so(
    words: list[str], name: str, equimos: Equimos, tmp_path: Path, flowers: Path, weights: Path
) -> None:
    words = ["learn", "--yes", "-i", flowers, "-m", tmp_path / "new", "--weights", weights, *words]
    refused(equimos(*words, "--keep-held-out", 2), "--keep-held-out", "simple_cil", f"{name}, leave it out")


def test_what_broke_is_known_when_the_images_are_gone(
    equimos: Equimos, tmp_path: Path, pictures: Pictures, weights: Path
) -> None:
    """A second month whose class looks like one of the first, whose folders are gone."""
    model, first = tmp_path / "m.safetensors", pictures("first", ["rose", "tulip"], 30)
    words = ("-m", model, "--weights", weights, "--method", "simple_cil", "--keep-held-out", 3)
    assert equimos("learn", "--yes", "-i", first, *words).exit_code == 0
    found = contents.read(model)
    held_out = {image.digest: image.label for image in found.seen.images if image.held_out}
    assert sorted(held_out[mark] for mark in found.held_out.digests) == ["rose"] * 3 + ["tulip"] * 3
    assert "held-out features" in equimos("info", "-m", model).stdout

    twins = pictures("twins", ["tulip"], 50) / "tulip"
    for number in range(30):
        (twins / f"{number}.png").unlink()
    twins.rename(twins.with_name("parrot"))
    old = continual.load(model)
    paths = [path for path in sorted(first.rglob("*.png")) if _digest(path) in found.held_out.digests]
    names = [path.parent.name for path in paths]
    second = equimos("learn", "--yes", "-i", twins.parent, "-m", model)
    assert second.exit_code == 0, second.stderr
    assert "6 images of them are gone, and judged by the features that were kept" in second.stderr
    assert "nothing can be said" not in second.stderr
    before, now = old.predict(paths).labels, continual.load(model).predict(paths).labels
    broke = sum(a == name != b for a, b, name in zip(before, now, names, strict=True))
    listed = json.loads(equimos("history", "-m", model, "--json", "-").stdout)[-1]["held_out"]
    assert (listed["images"], listed["negative_flips"]) == (6 + 4, broke)
    assert broke > 0, "the test would show nothing"

    # What was kept stays until it is dropped, or its class is.
    assert len(contents.read(model).held_out.digests) == 6
    assert equimos("rename", "rose", "wild rose", "-m", model).exit_code == 0
    assert equimos("forget", "tulip", "-m", model).exit_code == 0
    left = contents.read(model)
    assert left.held_out.labels(left.seen) == ["wild rose"] * 3
    third = ("learn", "--yes", "-i", pictures("third", ["iris"], 10), "-m", model)
    assert equimos(*third, "--keep-held-out", 0).exit_code == 0
    assert contents.read(model).held_out.digests == ()


def _digest(path: Path) -> int:
    return digest(path.read_bytes())


def test_the_same_images_are_kept_in_whatever_order_and_those_that_are_kept_stay() -> None:
    pictures = [
        Picture(Path(f"{mark}.png"), SeenImage(mark, 0, "rose" if mark % 2 else "iris", True)) for mark in range(24)
    ]
    seen = SeenImages().with_images(picture.entry for picture in pictures)
    few = chosen(pictures, HeldOutFeatures(), seen, 3)
    assert len(few) == 6
    assert list(few.items()) == list(chosen(pictures[::-1], HeldOutFeatures(), seen, 3).items())
    assert {mark % 2 for mark in few} == {0, 1}
    more = chosen(pictures, HeldOutFeatures(tuple(few)), seen, 5)
    assert len(more) == 4
    assert not more.keys() & few.keys()
    assert chosen(pictures, HeldOutFeatures(tuple(few)), seen, 2) == {}
