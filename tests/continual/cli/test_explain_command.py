"""The command `explain`: a table, a picture, and thumbnails only where they were asked for."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from continual.lifecycle import contents

Equimos = Callable[..., Any]


def test_a_table_a_picture_and_thumbnails_if_they_were_kept(
    equimos: Equimos, weights: Path, flowers: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model, photo = tmp_path / "m.safetensors", flowers / "rose" / "0.png"
    learn = ["learn", "--images", flowers, "--model", model, "--yes"]
    made = equimos(*learn, "--weights", weights, "--keep-thumbnails", 2)
    assert made.exit_code == 0, made.stderr
    found = contents.read(model)
    labels = [found.seen.by_digest[mark].label for mark in found.thumbnails.digests]
    assert sorted(labels) == sorted([name for name in found.classes for _ in range(2)])
    assert re.search(r"^thumbnails +kept, [\d.]+ KiB$", equimos("info", "--model", model).stdout, re.MULTILINE)
    result = equimos("explain", photo, "--model", model)
    assert result.exit_code == 0, result.stderr
    for words in ("every image gets", "nearest class", "nearest thumbnail", "adds"):
        assert words in result.stdout
    with Image.open(tmp_path / "0-why.png") as drawn:
        assert drawn.size[1] > 448
    about = json.loads(equimos("explain", photo, "--model", model, "--json", "-", "--against", found.classes[1]).stdout)
    assert about["base"] + about["whole"] + sum(map(sum, about["places"])) == pytest.approx(about["value"], abs=1e-4)
    assert len(about["thumbnails"]) > 1
    equimos("forget", found.classes[0], "--model", model)
    assert {*contents.read(model).thumbnails.digests} < {*found.thumbnails.digests}
    for words, said in ((["--out", "x.jpg"], ".png"), (["--against", "rsoe"], "no class 'rsoe'")):
        refused = equimos("explain", photo, "--model", model, *words)
        assert refused.exit_code == 2
        assert said in refused.stderr


def test_without_being_asked_a_model_holds_no_picture(equimos: Equimos, model: Path) -> None:
    found = contents.read(model)
    assert found.thumbnails.digests == ()
    assert re.search(r"^thumbnails +none$", equimos("info", "--model", model).stdout, re.MULTILINE)
