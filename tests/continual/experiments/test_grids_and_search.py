"""Grids in a config make rows; a search chooses settings on training images alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from continual.errors import InputError
from continual.experiments.config import load_config
from continual.experiments.searching import Range, search, validation
from tests.support.small_runs import PRETRAINED, config_text

GRID = """
[settings]
alignment_epochs = { grid = [1, 2] }
[methods.mos]
lr = { grid = [0.01, 0.1] }
[methods.simple_cil]
"""


def test_a_grid_makes_a_row_of_every_point(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(config_text(PRETRAINED + GRID))
    found = load_config(tmp_path / "run.toml").methods
    assert [*found] == [
        "mos alignment_epochs=1 lr=0.01",
        "mos alignment_epochs=1 lr=0.1",
        "mos alignment_epochs=2 lr=0.01",
        "mos alignment_epochs=2 lr=0.1",
        "simple_cil",
    ]
    assert found["mos alignment_epochs=2 lr=0.01"].settings == {"alignment_epochs": 2, "lr": 0.01}
    assert found["mos alignment_epochs=2 lr=0.01"].method == "mos"


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        ("{ grid = [] }", "a grid is a list of values"),
        ("{ grid = 0.1 }", "a grid is a list of values"),
        ("{ grid = [0.1, 0.1] }", "names a value twice"),
        ("{ grid = [0.1], of = 1 }", "a grid is a list of values"),
        ("{ grid = [0.1, -1] }", "lr"),
        (f"{{ grid = {[1 + n for n in range(201)]} }}", "201 points: at most 200"),
    ],
)
def test_a_grid_that_is_none_is_refused(tmp_path: Path, grid: str, said: str) -> None:
    (tmp_path / "run.toml").write_text(config_text(f"{PRETRAINED}[methods.mos]\nlr = {grid}\n"))
    with pytest.raises(InputError, match=said):
        load_config(tmp_path / "run.toml")


def test_a_row_of_a_grid_takes_no_other_row_s_name(tmp_path: Path) -> None:
    both = '[methods.mos]\nlr = { grid = [0.1, 0.2] }\n[methods."mos lr=0.1"]\nmethod = "mos"\nlr = 0.7\n'
    (tmp_path / "run.toml").write_text(config_text(PRETRAINED + both))
    with pytest.raises(InputError, match="two rows are called 'mos lr=0.1'"):
        load_config(tmp_path / "run.toml")


def test_ranges_are_read() -> None:
    assert Range.parsed("0.1..2") == Range(0.1, 2)
    assert Range.parsed("log:1..100") == Range(1, 100, logarithmic=True, whole=True)
    assert Range.parsed("ema,mean").choices == ("ema", "mean")
    for wrong in ("3", "2..1", "a..b", "log:0..1", ""):
        with pytest.raises(InputError):
            Range.parsed(wrong)


def test_test_images_take_no_part(config: Path) -> None:
    from continual.experiments.run import streams

    (stream,) = streams(load_config(config)).values()
    found = validation(stream, 0.25, 1)
    for before, after in zip(stream.experiences, found.experiences, strict=True):
        assert sorted(map(str, [*after.train_images, *after.test_images])) == sorted(map(str, before.train_images))
        assert {*after.test_labels} == {*before.train_labels}
    again = validation(stream, 0.25, 1)
    assert [e.test_images for e in again.experiences] == [e.test_images for e in found.experiences]


def test_a_search_finds_the_better_setting(config: Path, equimos: Any, tmp_path: Path) -> None:
    pytest.importorskip("optuna")
    text = config.read_text().replace("[methods.simple_cil]", "[methods.ranpac]\nepochs = 0\n")
    config.write_text(text)
    found = search(load_config(config), "ranpac", {"projection": Range.parsed("1..64")}, trials=4)
    assert len(found) == 4
    assert found[0].figure == max(trial.figure for trial in found)
    assert all(1 <= trial.settings["projection"] <= 64 for trial in found)
    again = search(load_config(config), "ranpac", {"projection": Range.parsed("1..64")}, trials=4)
    assert again == found, "the same seed makes the same choices"
    for words, said in (
        (["mso", "projection=1..2"], "no method 'mso'"),
        (["ranpac", "projektion=1..2"], "did you mean 'projection'"),
        (["ranpac", "projection"], "SETTING=RANGE"),
        (["ranpac", "projection=1..2", "--metric", "fnal"], "no metric 'fnal'"),
    ):
        refused = equimos("search", config, *words)
        assert refused.exit_code == 2
        assert said in refused.stderr
    done = equimos("search", config, "ranpac", "projection=1,2", "--trials", 1, "--csv", tmp_path / "t.csv")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "t.csv").read_text().startswith("projection,average")
    assert "methods.ranpac.projection=" in done.stderr
