"""`learn` and `predict` on two processes started by torchrun: the model and the answers of one process."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from continual import console, distributed
from continual.learning import model_file
from tests.conftest import ROOT

Equimos = Callable[..., Any]
WORDS = ("--device", "cpu", "--set", "eval_batch_size=3")


def torchrun(folder: Path, *words: object) -> subprocess.CompletedProcess[str]:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "continual"]
    return subprocess.run(
        [*start, *map(str, words)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_two_processes_learn_and_answer_what_one_does(
    tmp_path: Path, pictures: Callable[..., Path], weights: Path, equimos: Equimos
) -> None:
    images = pictures("images", ["rose", "iris", "tulip"], 7)
    (images / "rose" / "broken.png").write_bytes(b"no image")
    for method in ("ridge", "strata"):
        words = ["--yes", "--images", images, "--weights", weights, "--method", method, *WORDS]
        one, two = tmp_path / f"{method}-1.safetensors", tmp_path / f"{method}-2.safetensors"
        asked = equimos("learn", "--model", one, *words)
        assert asked.exit_code == 0, asked.stderr
        done = torchrun(tmp_path, "learn", "--model", two, *words)
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("3 classes in 1 experience") == 1, "one speaks for all"
        assert done.stderr.count("1 file left out, not readable") == 1
        (tensors, _), (others, _) = model_file.read(one), model_file.read(two)
        assert tensors.keys() == others.keys()
        assert all(torch.equal(tensor, others[name]) for name, tensor in tensors.items()), method
    (images / "rose" / "broken.png").unlink()
    answers = [tmp_path / "1.csv", tmp_path / "2.csv"]
    assert equimos("predict", images, "--model", one, "--csv", answers[0], *WORDS).exit_code == 0
    done = torchrun(tmp_path, "predict", images, "--model", two, "--csv", answers[1], *WORDS)
    assert done.returncode == 0, done.stderr
    assert answers[0].read_text() == answers[1].read_text()
    assert done.stdout.count("rose/0.png") == 1


@pytest.mark.slow
def test_what_cannot_be_done_is_said_once(tmp_path: Path, pictures: Callable[..., Path], model: Path) -> None:
    images = pictures("images", ["rose"], 3)
    done = torchrun(tmp_path, "learn", "--model", model, "--images", images, "--class", "rose", *WORDS[:2])
    assert done.stderr.count("error: there is no terminal to ask on: --yes learns without asking") == 1
    for number in range(2):
        (images / "rose" / f"{number}.png").write_bytes(b"no image")
    done = torchrun(tmp_path, "predict", images, "--model", model, *WORDS[:2])
    assert done.returncode != 0
    assert done.stderr.count("0.png") == done.stderr.count("1.png") == 1, "each process found one of them"


def test_only_one_of_several_processes_speaks_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for quiet in (True, False):
        with console.silent(quiet):
            console.console().print("said")
            console.show_rows([["one"]], "heading")
            assert console.write_json(tmp_path / "file.json", {})
            console.write_text(console.STDOUT, "text\n")
        assert (tmp_path / "file.json").exists() == (not quiet)
        assert capsys.readouterr().out == ("" if quiet else "said\nheading\none\ntext\n")


def test_files_that_cannot_be_read_are_named_by_all(
    tmp_path: Path, pictures: Callable[..., Path], model: Path, equimos: Equimos, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = pictures("images", ["rose"], 3)
    monkeypatch.setattr(distributed, "exchange", lambda value: ["the other found this", value])
    result = equimos("predict", images, "--model", model, "--device", "cpu")
    assert result.exit_code == 2
    assert "error: the other found this" in result.stderr
