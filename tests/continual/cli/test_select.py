"""The command select: a list to fill in, copies to sort, and the model that then learns them."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from typing import Any

import continual

Equimos = Callable[..., Any]
Pictures = Callable[..., Path]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_list_is_filled_in_and_learned(equimos: Equimos, pictures: Pictures, weights: Path, tmp_path: Path) -> None:
    folder = pictures("photos", ["iris", "rose", "tulip"], 6)
    picks, model = tmp_path / "picks.csv", tmp_path / "model.safetensors"
    found = equimos("select", folder, "--budget", "6", "--weights", weights, "--csv", picks)
    assert found.exit_code == 0, found.stderr
    assert "6 images of 18 chosen" in found.stderr
    assert "stands for" in found.stdout
    listed = rows(picks)
    assert [row["label"] for row in listed] == [""] * 6
    assert sum(int(row["stands_for"]) for row in listed) == 18
    learn = ("learn", "--yes", "--images", picks, "--model", model, "--weights", weights, "--hold-out", "0")
    refused = equimos(*learn)
    assert refused.exit_code == 2
    assert "line 2: no label" in refused.stderr
    assert not model.exists()
    text = picks.read_text(encoding="utf-8").splitlines()
    done = [text[0], *(line.replace(",,", f",{Path(line.split(',')[0]).parent.name},") for line in text[1:])]
    picks.write_text("\n".join(done) + "\n", encoding="utf-8")
    learned = equimos(*learn)
    assert learned.exit_code == 0, learned.stderr
    known = {Path(row["path"]).parent.name for row in listed}
    assert set(continual.load(model, weights=weights).classes) == known
    # What the model has seen is not asked for again.
    again = equimos("select", folder, "--budget", "13", "--known", model, "--csv", "-")
    assert again.exit_code == 2
    assert "--budget 13 is more than the 12 images in" in again.stderr
    assert "and 6 that the model has seen" in again.stderr


def test_copies_are_sorted_by_hand(equimos: Equimos, pictures: Pictures, weights: Path, tmp_path: Path) -> None:
    folder, copies = pictures("photos", ["iris", "rose"], 3), tmp_path / "to sort"
    words = ("select", folder, "-n", "4", "--weights", weights, "--copy-to", copies, "--by", "patterns")
    assert equimos(*words).exit_code == 0
    found = sorted(copies.iterdir())
    assert len(found) == 4
    for path in found:
        assert path.read_bytes() == folder.joinpath(*path.name.split("__")).read_bytes()
    again = equimos(*words)
    assert again.exit_code == 2
    assert "is there already" in again.stderr


def test_copies_of_one_name_are_all_there(equimos: Equimos, pictures: Pictures, weights: Path, tmp_path: Path) -> None:
    folder, copies = pictures("photos", ["a", "a/b"], 1), tmp_path / "to sort"
    (folder / "a" / "0.png").rename(folder / "a__b__0.png")
    result = equimos("select", folder, "-n", "2", "--weights", weights, "--copy-to", copies)
    assert result.exit_code == 0, result.stderr
    assert sorted(path.name for path in copies.iterdir()) == ["a__b__0-2.png", "a__b__0.png"]
    assert {path.read_bytes() for path in copies.iterdir()} == {p.read_bytes() for p in folder.rglob("*.png")}


def test_a_list_elsewhere_needs_the_word(equimos: Equimos, pictures: Pictures, weights: Path, tmp_path: Path) -> None:
    folder = pictures("photos", ["iris", "rose"], 3)
    (tmp_path / "lists").mkdir()
    picks = tmp_path / "lists" / "picks.csv"
    assert "--outside --model" in equimos("select", folder, "-n", "6", "--weights", weights, "--csv", picks).stderr
    text = picks.read_text(encoding="utf-8").replace(",,", ",flower,", 3).replace(",,", ",tree,")
    picks.write_text(text, encoding="utf-8")
    learn = ("learn", "--dry-run", "--images", picks, "--model", tmp_path / "m.safetensors", "--weights", weights)
    refused = equimos(*learn)
    assert refused.exit_code == 2
    assert "--outside" in refused.stderr
    shown = equimos(*learn, "--outside")
    assert shown.exit_code == 0, shown.stderr
    assert "2 new classes" in shown.stdout


def test_what_cannot_be_is_one_error_and_nothing_is_written(
    equimos: Equimos, pictures: Pictures, weights: Path, model: Path, tmp_path: Path
) -> None:
    folder, picks = pictures("photos", ["iris", "rose"], 3), tmp_path / "picks.csv"
    for words, said in (
        (("--budget", "7", "--weights", weights), "--budget 7 is more than the 6 images"),
        (("--budget", "2", "--weights", weights, "--by", "colour"), "--by is image or patterns, not colour"),
        (("--budget", "2", "--known", model, "--backbone", "x"), "--known brings its own backbone"),
    ):
        found = equimos("select", folder, *words, "--csv", picks)
        assert found.exit_code == 2
        assert said in found.stderr
        assert found.stderr.count("error:") == 1
        assert not picks.exists()
    assert "no folder at" in equimos("select", tmp_path / "gone", "-n", "1", "--weights", weights).stderr
