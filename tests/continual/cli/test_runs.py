"""`equimos run` and `equimos show` on a tiny config."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from rich.text import Text

from continual.cli import runs
from continual.experiments import shipped
from continual.experiments.config import load_config, load_runs
from continual.experiments.equivariance.config import load_study
from continual.experiments.run_folder import collect
from tests.support.refusals import refused

Equimos = Callable[..., Any]
ROOT = Path(__file__).resolve().parents[3]
#: what `equimos run` reads; the studies in configs/equivariance have tests of their own
BENCHMARKS = sorted(
    p for p in ROOT.glob("configs/**/*.toml") if p.parent.name != "equivariance" and len(load_runs(p)) == 1
)


def test_run_shows_a_table_and_fills_its_folder(equimos: Equimos, config: Path) -> None:
    out = config.parent / "out"
    result = equimos("run", config, "--out", out)
    assert result.exit_code == 0, result.stderr
    (line,) = [line for line in result.stdout.splitlines() if "simple_cil" in line]
    assert "100.0" in line
    names = {"run.json", "results.json", "results.csv", "results.md", "accuracy.png"}
    assert names <= {p.name for p in out.iterdir()}
    assert all(str(out / name) in result.stderr for name in names)


def test_the_same_command_goes_on_and_others_go_elsewhere(
    equimos: Equimos, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(config.parent)
    for words in ((), (), ("seeds=[1]",), ("seeds=[1]",), ("seeds=[2]",)):
        result = equimos("run", "tiny.toml", *words)
        assert result.exit_code == 0, result.stderr
    folders = sorted(p.name for p in Path("runs").iterdir())
    assert folders[0] == "tiny"
    assert len(folders) == 3
    seeds = {json.loads((Path("runs") / name / "results.json").read_text())[0]["seed"] for name in folders}
    assert seeds == {1993, 1, 2}


def test_features_are_kept_for_other_runs(
    equimos: Equimos, config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("EQUIMOS_CACHE", str(tmp_path / "cache"))
    assert equimos("run", config, "--no-store", "--out", tmp_path / "without").exit_code == 0
    assert not (tmp_path / "cache").exists()
    for out in ("first", "again"):
        assert equimos("run", config, "--out", tmp_path / out).exit_code == 0
    ends = [json.loads((tmp_path / out / "results.json").read_text()) for out in ("without", "first", "again")]
    assert len({json.dumps([cell["accuracy"] for cell in cells]) for cells in ends}) == 1
    shown = json.loads(equimos("cache", "show", "--json", "-").stdout)
    assert [reading["reading"] for reading in shown["readings"]] == ["features"]
    assert shown["readings"][0]["bytes"] > 0
    assert str(tmp_path / "cache") in equimos("cache", "show").stdout
    for reading in (tmp_path / "cache").rglob("reading.json"):
        reading.unlink()  # as another process may that clears the store
    (shown,) = json.loads(equimos("cache", "show", "--json", "-").stdout)["readings"]
    assert (shown["backbone"], shown["sha256"], shown["device"]) == ("unknown", "unknown", "unknown")
    assert "unknown" in equimos("cache", "show").stdout
    assert "removed" in equimos("cache", "clear").stdout
    assert json.loads(equimos("cache", "show", "--json", "-").stdout)["readings"] == []


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda p: p.stem)
def test_what_show_prints_is_the_same_run(equimos: Equimos, path: Path, tmp_path: Path) -> None:
    result = equimos("show", path, "seeds=[7]")
    assert result.exit_code == 0, result.stderr
    shown = tmp_path / "shown.toml"
    shown.write_text(result.stdout)
    before, after = load_config(path, ["seeds=[7]"]), load_config(shown)
    assert after.seeds == [7]
    assert after.methods.keys() == before.methods.keys()
    for label, row in before.methods.items():
        assert after.methods[label].make_settings() == row.make_settings()
        assert after.methods[label].variants == row.variants
    for part in ("title", "stream", "backbone"):
        assert getattr(after, part) == getattr(before, part)
    assert after.data.source == before.data.source


def test_show_keeps_odd_names(equimos: Equimos, config: Path, tmp_path: Path) -> None:
    text = config.read_text().replace("[methods.simple_cil]", '[methods."a \\"b\\" é.c"]\nmethod = "simple_cil"')
    config.write_text(text, encoding="utf-8")
    shown = tmp_path / "shown.toml"
    shown.write_text(equimos("show", config).stdout, encoding="utf-8")
    assert list(load_config(shown).methods) == ['a "b" é.c']


STUDIES = [name for name in shipped.shipped() if name.startswith("equivariance/")]


@pytest.mark.parametrize("name", STUDIES)
def test_studies_of_wrappers_are_shown_as_well(equimos: Equimos, name: str, tmp_path: Path) -> None:
    result = equimos("show", name, "seeds=[7]")
    assert result.exit_code == 0, result.stderr
    shown = tmp_path / "shown.toml"
    shown.write_text(result.stdout, encoding="utf-8")
    before, after = load_study(shipped.find(Path(name)), ["seeds=[7]"]), load_study(shown)
    assert after.seeds == [7]
    assert {label: (row.wrapper, row.recipe, row.options) for label, row in after.rows.items()} == {
        label: (row.wrapper, row.recipe, row.options) for label, row in before.rows.items()
    }
    assert after.recipes == before.recipes
    assert after.model == before.model
    assert after.data.source == before.data.source


def test_every_config_of_the_project_has_a_name_and_is_listed(equimos: Equimos) -> None:
    there = {path.relative_to(ROOT / "configs").with_suffix("").as_posix() for path in ROOT.glob("configs/**/*.toml")}
    assert {*shipped.shipped()} == there
    listed = equimos("show").stdout
    assert all(name in listed for name in there)


def test_a_config_is_found_by_its_name(equimos: Equimos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert equimos("show", "quickstart").stdout == equimos("show", ROOT / "configs" / "quickstart.toml").stdout
    assert equimos("show", "configs/quickstart.toml").stdout == equimos("show", "quickstart").stdout
    refused(equimos("show", "configs/quickstrat.toml"), "configs/quickstrat.toml")
    planned = equimos("run", "quickstart", "--dry-run")
    assert planned.exit_code == 0, planned.stderr
    assert "runs/quickstart" in planned.stdout
    # Configs of one file name do not meet in one folder.
    assert shipped.run_folder(ROOT / "configs" / "no_up" / "aid.toml", "-1") == Path("runs/no_up/aid-1")
    assert shipped.run_folder(shipped.find(Path("mos_ridge/aid"))) == Path("runs/mos_ridge/aid")
    assert shipped.run_folder(tmp_path / "aid.toml") == Path("runs/aid")
    tried = equimos("equivariance", "tune", "quickstart", "--dry-run")
    assert tried.exit_code == 0, tried.stderr
    for words, said in (
        (("show", "quickstrat"), "did you mean 'quickstart'"),
        (("run", "zzz"), "`equimos show` lists them"),
        (("run", "nowhere.toml"), "nowhere.toml"),
        (("run", "equivariance/quickstart"), "`equimos equivariance tune` runs it"),
    ):
        result = equimos(*words)
        assert result.exit_code == 2
        assert said in result.stderr
        assert result.stderr.count("\n") == 1
    Path("quickstart").write_text("title = 1")
    assert equimos("show", "quickstart").exit_code == 2, "a file of that name comes first"


def test_an_installed_package_has_the_configs() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"][
        "package-data"
    ]
    packaged = {path for pattern in declared["continual"] for path in (ROOT / "continual").glob(pattern)}
    assert {*shipped.shipped().values()} <= packaged


def test_help_is_that_of_the_command(equimos: Equimos) -> None:
    for words in (("run",), ("data", "prepare"), ()):
        asked = equimos("help", *words)
        assert asked.exit_code == 0
        assert asked.stdout == equimos(*words, "--help").stdout
    for words, meant in ((("shwo",), "did you mean 'show'"), (("data", "prepar"), "did you mean 'prepare'")):
        result = equimos("help", *words)
        assert result.exit_code == 2
        assert meant in result.stderr


@pytest.mark.parametrize(
    ("typed", "completed"),
    [("equimos pred", "predict"), ("equimos run qu", "quickstart"), ("equimos show cifar", "cifar100/mos_b0_inc5")],
)
def test_the_shell_completes_and_loads_nothing_for_it(typed: str, completed: str) -> None:
    said = {"_EQUIMOS_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    program = (
        "import sys; from continual.cli.app import main\ntry: main()\nfinally: print(*sys.modules, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **said},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed in done.stdout.split()
    assert not {"torch", "avalanche"} & {*done.stderr.split()}


def test_a_narrow_terminal_gets_four_measures_and_all_if_asked(
    equimos: Equimos, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = config.parent / "out"
    assert equimos("run", config, "--out", out).exit_code == 0
    cells = collect(out).cells
    shown = {}
    for every in (False, True):
        narrow = Console(file=io.StringIO(), width=200 if every else 80, force_terminal=True, color_system=None)
        monkeypatch.setattr(runs, "console", lambda *, stderr=False, made=narrow: made)
        runs._show_table("a title", cells, every=every)
        shown[every] = narrow.file.getvalue()  # type: ignore[attr-defined]
    assert "memory" in shown[True]
    assert "memory" not in shown[False]
    assert "--all shows every measure" in shown[False]
    assert "simple_cil: average accuracy" in shown[False]


def test_at_80_columns_best_values_are_bold_and_arrows_say_which_way_is_better(
    equimos: Equimos, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config.write_text(config.read_text() + '[methods.prototypes]\nmethod = "simple_cil"\n')
    assert equimos("run", config, "--out", config.parent / "out").exit_code == 0
    narrow = Console(file=io.StringIO(), width=80, force_terminal=True, color_system="standard")
    monkeypatch.setattr(runs, "console", lambda *, stderr=False: narrow)
    cells = collect(config.parent / "out").cells
    wrong = [replace(one, answers=[1 - answer for answer in one.answers or ()]) for one in cells[1].evaluations]
    cells = [cells[0], replace(cells[1], evaluations=tuple(wrong))]
    runs._show_table("a title", cells, every=False)
    drawn = narrow.file.getvalue()  # type: ignore[attr-defined]
    assert re.search(r"│ simple_cil *│ *\x1b\[1m *100\.0\x1b\[0m", drawn), drawn
    assert re.search(r"│ prototypes *│ *0\.0 *│", drawn), drawn
    lines = Text.from_ansi(drawn).plain.splitlines()
    assert max(map(len, lines)) <= 80
    (row,) = [line for line in lines if line.startswith("│ simple_cil")]
    assert row.count("│") == 6, "the method and four measures"
    heading = "".join(lines[: lines.index(row)])
    assert (heading.count("↑"), heading.count("↓")) == (2, 2)


def test_what_runs_now_is_named_also_where_a_name_has_a_comma(equimos: Equimos, config: Path) -> None:
    config.write_text(config.read_text() + '[methods."simple_cil, again"]\nmethod = "simple_cil"\n[methods.ridge]\n')
    words = ("--only", "simple_cil", "--only", "simple_cil, again", "--out", config.parent / "out")
    said = equimos("run", config, *words).stderr
    assert f"Tiny: simple_cil; simple_cil, again. Results in {config.parent / 'out'}" in said
