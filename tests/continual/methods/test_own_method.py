"""A method in a user's own file: in a config, with --method, in a model file; and a file that would run code."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import continual
from continual.avalanche.external import AvalancheLearner, find_method
from continual.errors import EquimosError, InputError
from continual.experiments.config import load_config
from continual.learning import model_file
from continual.methods import METHODS, method, methods, with_preset
from tests.support.small_runs import results

Equimos = Callable[..., Any]

OWN = '''
from continual.learning.settings import Settings
from continual.methods.simple_cil import SimpleCILLearner


class Sharper(SimpleCILLearner):
    """Prototypes with a sharper softmax."""

    method = "sharper"
    summary = "prototypes with a sharper softmax"

    class settings_type(Settings):
        sharpness: float = 2.0

    def _scores(self, images, cache=None):
        found = super()._scores(images, cache)
        return type(found)((self.settings.sharpness * found.values.log()).softmax(-1))
'''
STRATEGY = "from avalanche.training import Naive\n\n\nclass Mine(Naive):\n    pass\n"


@pytest.fixture(autouse=True)
def _none_added(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(METHODS, "_added", {})


@pytest.fixture
def own(config: Path) -> Path:
    """The file of an own method, beside a config that names it."""
    text = config.read_text().replace("[methods.simple_cil]", '[methods.x]\nmethod = "own_file.py:Sharper"')
    config.write_text(f"{text}sharpness = 3.0\n")
    (config.parent / "own_file.py").write_text(OWN)
    return config.parent / "own_file.py"


def test_an_own_method_is_at_most_twenty_lines() -> None:
    assert len(OWN.strip().splitlines()) <= 20


def test_a_config_runs_an_own_method(
    own: Path, config: Path, equimos: Equimos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # the file is looked up beside the config
    out = tmp_path / "out"
    result = equimos("run", config, "--out", out)
    assert result.exit_code == 0, result.stderr
    (cell,) = json.loads(next((out / "cells").iterdir()).read_text())
    assert (cell["label"], cell["method"], cell["settings"]["sharpness"]) == ("x", "sharper", 3.0)
    record = json.loads(next((out / "records").iterdir()).read_text())
    digest = hashlib.sha256(own.read_bytes()).hexdigest()
    assert record["code"] == {"file": str(own), "class": "Sharper", "sha256": digest}
    assert "x" in equimos("report", out).stdout
    dry = equimos("run", config, "--out", out, "--dry-run", "--allow-code")
    assert dry.exit_code == 0, dry.stderr
    assert "1 of 1 cells finished" in " ".join(dry.stdout.split())
    # what `show` prints runs from wherever it lies, and is the same run
    Path("again.toml").write_text(equimos("show", config, "--allow-code").stdout)
    assert equimos("run", "again.toml", "--out", "again").exit_code == 0
    assert results(Path("again")) == results(out)


def test_an_override_is_looked_up_in_the_working_folder(
    own: Path, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    shutil.copy(own, tmp_path / "here" / "mine.py")
    monkeypatch.chdir(tmp_path / "here")
    loaded = load_config(config, ["methods.x.method=mine.py:Sharper"])
    assert loaded.methods["x"].method == f"{tmp_path / 'here' / 'mine.py'}:Sharper"


def test_a_class_decides_what_it_is(own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "own_package.py").write_text(OWN.replace('"sharper"', '"sharper2"'))
    (tmp_path / "strategy.py").write_text(STRATEGY)
    (tmp_path / "raises.py").write_text("1 / 0")
    assert find_method(f"{own}:Sharper").method == "sharper"
    assert find_method("own_package:Sharper").method == "sharper2"
    assert issubclass(find_method(f"{tmp_path / 'strategy.py'}:Mine"), AvalancheLearner)
    assert {"sharper", "sharper2"} <= methods().keys()
    for wrong, said in (
        (f"{own}:Sharpr", "has no 'Sharpr': did you mean 'Sharper'"),
        (f"{own}:Settings", "no strategy 'Settings' in .*own_file.py, nor a learner"),
        (f"{tmp_path / 'gone.py'}:Sharper", "no Python file at"),
        ("no_such_package:Sharper", "No module named"),
        ("raises:Sharper", "'raises:Sharper' cannot be imported: ZeroDivisionError"),
        (":Sharper", "cannot be imported: ValueError"),
    ):
        with pytest.raises(InputError, match=said):
            find_method(wrong)


def test_the_problems_of_an_own_file_are_one_line(own: Path, config: Path, equimos: Equimos) -> None:
    own.write_text(OWN + "\nraise RuntimeError('not yet')\n")
    result = equimos("run", config)
    assert result.exit_code == 2
    assert result.stderr.startswith("error: ")
    assert "own_file.py cannot be imported: RuntimeError: not yet" in " ".join(result.stderr.split())


def test_learn_goes_by_a_file_and_a_model_by_the_name(
    own: Path, equimos: Equimos, flowers: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(own.parent)
    model = tmp_path / "own.safetensors"
    words = ["learn", "--yes", "--images", flowers, "--model", model, "--weights", weights, "--device", "cpu"]
    result = equimos(*words, "--method", "own_file.py:Sharper", "--set", "sharpness=4.0")
    assert result.exit_code == 0, result.stderr
    assert model_file.read_header(model)["method"] == "sharper"
    assert type(continual.load(model)).__name__ == "Sharper"
    monkeypatch.setattr(METHODS, "_added", {})  # as in another process
    with pytest.raises(InputError, match=r"unknown method 'sharper'.*--method own_file.py:MyLearner.*METHODS.resolve"):
        continual.load(model)
    METHODS.resolve("own_file.py:Sharper")
    assert continual.load(model).settings.sharpness == 4.0


@pytest.mark.parametrize("name", ["evil.py:X", "evil:X"])
def test_a_model_file_never_runs_code(
    name: str, equimos: Equimos, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nX = 1\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    tensors, header = model_file.read(model)
    model_file.write(model, tensors, {**header, "method": name})
    with pytest.raises(EquimosError, match="unknown method 'evil"):
        continual.load(model)
    picture = next(p for p in tmp_path.rglob("*") if p.is_file())
    for words in (["info", "-m", model], ["predict", "-m", model, picture], ["learn", "--yes", "-m", model, "-i", "."]):
        equimos(*words)
    assert not (tmp_path / "ran").exists()
    assert "evil" not in sys.modules


def test_a_name_is_not_loaded_and_another_s_name_is_refused(own: Path) -> None:
    assert with_preset(f"{own}:Sharper") == ("sharper", None)
    with pytest.raises(InputError, match="unknown method 'own_file.py:Sharper'"):
        method("own_file.py:Sharper")
    (own.parent / "same.py").write_text(OWN.replace('"sharper"', '"mos"'))
    with pytest.raises(InputError, match="there is a method 'mos' already"):
        METHODS.resolve("same.py:Sharper", own.parent)


@pytest.mark.parametrize("row", ['method = "evil.py:X"', 'method = "evil:X"', 'method = "mos"\nadapter = "evil.py:X"'])
@pytest.mark.parametrize("words", [("show",), ("run", "--dry-run")], ids=["show", "dry-run"])
def test_checking_a_config_runs_nothing_that_it_names(
    config: Path, equimos: Equimos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: str, words: tuple[str, ...]
) -> None:
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w').close()\n")
    config.write_text(config.read_text().partition("[methods")[0] + f"[methods.x]\n{row}\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "evil", raising=False)
    monkeypatch.syspath_prepend(tmp_path)  # as `python -m` would have it
    result = equimos(words[0], config, *words[1:])
    assert result.exit_code == 2, result.output
    assert "which is not run to check it: read that code, then add --allow-code" in result.stderr
    assert not (tmp_path / "owned").exists()
    assert equimos(words[0], config, *words[1:], "--allow-code").exit_code == 2  # it has no X
    assert (tmp_path / "owned").exists()
