"""Models of an own method, whose code every command loads from where `--method` says it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from continual.methods import METHODS
from tests.support.refusals import refused

Equimos = Callable[..., Any]

#: of two classes the wrong one
OWN = """
from dataclasses import replace

from continual.methods.simple_cil import SimpleCILLearner


class Contrary(SimpleCILLearner):
    "Says the opposite."

    method, paper, summary = "contrary", "none", "the least alike class"

    def _scores(self, images, cache=None):
        found = super()._scores(images, cache)
        return replace(found, values=1 - found.values)
"""


@pytest.fixture
def own(tmp_path: Path) -> str:
    (tmp_path / "own_file.py").write_text(OWN)
    return f"{tmp_path / 'own_file.py'}:Contrary"


def test_every_command_that_loads_a_model_takes_an_own_methods_code(
    equimos: Equimos, own: str, tmp_path: Path, flowers: Path, weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fresh(*words: object) -> Any:
        monkeypatch.setattr(METHODS, "_added", {})  # as a process does that has not seen the method
        return equimos(*words, "-m", model)

    model = tmp_path / "m.safetensors"
    made = fresh("learn", "--yes", "-i", flowers, "--weights", weights, "--method", own)
    assert made.exit_code == 0, made.stderr
    assert "contrary" in fresh("info").stdout
    refused(fresh("predict", flowers / "rose"), "unknown method 'contrary'", "--method own_file.py:MyLearner")
    answers = fresh("predict", flowers / "rose", "--method", own)
    assert answers.exit_code == 0, answers.stderr
    assert [line.split()[1] for line in answers.stdout.splitlines()[1:]] == ["tulip"] * 4
    others: list[tuple[object, ...]] = [("correct", flowers / "rose" / "0.png", "--class", "rose"), ("forget", "tulip")]
    others += [("export", "--onnx", tmp_path / "m.onnx"), ("serve", "--port", 0)]
    others += [("consolidate", "--yes", "--out", tmp_path / "c.safetensors")]
    for words in others:
        refused(fresh(*words), "unknown method 'contrary'", "--method own_file.py:MyLearner")
        refused(fresh(*words, "--method", "mos"), "--method mos is mos", "is a model of contrary")
    for words in others[:2]:
        done = fresh(*words, "--method", own)
        assert done.exit_code == 0, done.stderr
