"""`equimos equivariance advise`, the command that it says to type next, and `equimos learn --symmetry auto`."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from continual.backbones import recommended
from continual.testing import coloured_squares
from equivariant.orbits import orbit
from tests.support.refusals import refused

Equimos = Callable[..., Any]


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    """Three classes of coloured squares, each picture in a position of its own."""
    images, labels = coloured_squares(range(3), 10)
    views = orbit("D4", images.float()).to(torch.uint8)
    places = torch.randint(8, (len(images),), generator=torch.Generator().manual_seed(0)).tolist()
    for number, (label, place) in enumerate(zip(labels, places, strict=True)):
        folder = tmp_path / "tiles" / f"kind {label}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(views[place, number].permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    return tmp_path / "tiles"


@pytest.fixture
def advise(equimos: Equimos) -> Equimos:
    return lambda *words: equimos("equivariance", "advise", *words, "--device", "cpu")


def test_it_says_the_group_and_what_speaks_for_it(advise: Equimos, tiles: Path, weights: Path, tmp_path: Path) -> None:
    done = advise(tiles, "--weights", weights, "--json", tmp_path / "x.json")
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "x.json").read_text())
    groups = found["groups"]
    assert [one["group"] for one in groups] == [None, "mirror_h", "mirror_v", "C2", "C4", "D4"]
    assert found["advice"] in ("C4", "D4")
    for one in groups:
        (line,) = [line for line in done.stdout.splitlines() if line.split()[:1] == [one["group"] or "none"]]
        assert f"{one['accuracy']:.1%}" in line
        assert f"{one['saved']:.1%}" in line
    assert f"group: {found['advice']}" in done.stdout


def test_the_command_it_says_is_one_that_runs(
    advise: Equimos, equimos: Equimos, tiles: Path, weights: Path, tmp_path: Path
) -> None:
    found = json.loads(advise(tiles, "--weights", weights, "--json", "-").stdout)
    program, *words = shlex.split(found["command"])
    assert program == "equimos"
    place = words.index("model.safetensors")
    words[place] = str(tmp_path / "model.safetensors")
    done = equimos(*words, "--yes", "--device", "cpu")
    assert done.exit_code == 0, done.output
    about = json.loads(equimos("info", "-m", words[place], "--json", "-").stdout)
    assert about["settings"]["group"] == found["advice"]
    assert about["choice"] is None


def test_what_has_nothing_to_tell_by_is_refused(
    advise: Equimos, tiles: Path, weights: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(recommended, "there", lambda: None)
    refused(advise(tiles), "telling which group images have needs a backbone", "--weights FILE")
    for folder in [*tiles.iterdir()][1:]:
        folder.rename(tmp_path / folder.name)
    refused(advise(tiles, "--weights", weights), "fewer than two classes of two images")


def test_learn_decides_says_so_and_remembers(equimos: Equimos, tiles: Path, weights: Path, tmp_path: Path) -> None:
    model = tmp_path / "model.safetensors"
    words = ("learn", "-i", tiles, "-m", model, "--weights", weights, "--symmetry", "auto", "--device", "cpu")
    plan = equimos(*words, "--dry-run")
    assert "group: auto" in plan.stdout
    assert not model.exists()
    done = equimos(*words, "--yes")
    assert done.exit_code == 0, done.output
    assert "group: D4, these images have no up" in done.stderr
    about = json.loads(equimos("info", "-m", model, "--json", "-").stdout)
    assert about["settings"]["group"] == "auto"
    assert about["choice"]["group"] == "D4"
    assert "group" in equimos("info", "-m", model).stdout
    again = equimos(*words, "--yes")
    assert "nothing new" in again.stdout


def test_learn_and_predict_by_as_many_views_as_an_image_needs(
    equimos: Equimos, tiles: Path, weights: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model.safetensors"
    words = ("learn", "-i", tiles, "-m", model, "--weights", weights, "--device", "cpu", "--yes")
    refused(equimos(*words, "--passes", 2), "there is no group")
    done = equimos(*words, "--symmetry", "D4", "--passes", 2)
    assert done.exit_code == 0, done.output
    settings = json.loads(equimos("info", "-m", model, "--json", "-").stdout)["settings"]
    assert (settings["group"], settings["passes"], settings["symmetry"]) == ("D4", 2, "equitune")
    asked = ("predict", "-m", model, tiles, "--device", "cpu")
    means = [
        float(re.findall(r"([\d.]+) passes of the backbone per image", equimos(*asked, *more).stdout)[0])
        for more in (["--passes", 1], [], ["--passes", 8])
    ]
    assert means[0] == 1
    assert means[0] <= means[1] < means[2] == 8


def test_features_cannot_be_kept_of_a_model_whose_group_is_not_known(
    equimos: Equimos, tiles: Path, weights: Path, tmp_path: Path
) -> None:
    words = ("learn", "-i", tiles, "-m", tmp_path / "m", "--weights", weights, "--symmetry", "auto", "--yes")
    refused(equimos(*words, "--keep-held-out", 3), "without a group")
