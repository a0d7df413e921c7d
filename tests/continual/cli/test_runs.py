"""`equimos run` and `equimos show` on a tiny config."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from continual.experiments.config import load_config, load_runs

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
