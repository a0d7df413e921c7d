"""One run on two processes started by torchrun: the results of one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from continual import distributed
from continual.experiments import run
from continual.learning import model_file
from tests.support.small_runs import config_text, results

Equimos = Callable[..., Any]
ROOT = Path(__file__).resolve().parents[3]

#: `equimos`, that keeps the models it learned, and is killed after so many checkpoints
PROGRAM = """
import os, signal, sys
from continual.learning import checkpoints
from continual.experiments import run
from continual.cli.app import main
record, write, left = run.cell_record, checkpoints.write, [int(os.environ.get("KILL_AFTER", "0"))]
def keep(learner, *rest):
    learner.save(f"{learner.method}.safetensors")
    return record(learner, *rest)
def count(*args):
    write(*args)
    left[0] -= 1
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
run.cell_record, checkpoints.write = keep, count
main()
"""

# Batches of 6 and 7 images a process, and one of a single image; evaluation in batches that do not divide evenly.
REST = """
[settings]
epochs = 2
batch_size = 13
eval_batch_size = 3
alignment_epochs = 2
[methods.mos]
preset = "reference"
lr = 0.1
[methods.slca]
[methods.ridge]
[methods.finetune]
adapter = "ladder"
adapter_args = {reduction = 2, cached_views = 2}
[methods.ease]
adapter = "adalora"
adapter_args = {rank = 2, initial = 4}
"""


@pytest.fixture
def folder(tmp_path: Path, pictures: Callable[..., Path], weights: Path) -> Path:
    for name, images in (("train", 7), ("test", 4)):
        pictures(name, ["rose", "iris", "tulip", "daisy"], images)
    backbone = f"[backbone]\nweights = {json.dumps(str(weights))}\npreprocessing = {{ crop_scale = [0.5, 1.0] }}\n"
    (tmp_path / "c.toml").write_text(config_text(backbone + REST))
    (tmp_path / "program.py").write_text(PROGRAM)
    return tmp_path


def torchrun(folder: Path, *words: object, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "program.py"]
    return subprocess.run(
        [*command, *map(str, words)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def measured(out: Path) -> list[tuple[Any, ...]]:
    """Return what of the cells must be equal; measures of scores, such as the calibration error, may round."""
    cells = [cell for path in sorted(out.glob("cells/*.json")) for cell in json.loads(path.read_text())]
    return [
        (cell["label"], cell["seed"], cell["settings"], [e["memory"] for e in cell["evaluations"]]) for cell in cells
    ]


@pytest.mark.slow
def test_two_processes_learn_what_one_does(folder: Path, equimos: Equimos, monkeypatch: pytest.MonkeyPatch) -> None:
    # What another method has stored was computed in other batches, which is another rounding.
    done = torchrun(folder, "run", "c.toml", "--no-store", "--out", "two")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("Small") == done.stderr.count("Results in two") == 1, "one speaks for all"
    learners, record = {}, run.cell_record

    def keep(learner: Any, *rest: Any) -> dict[str, Any]:
        learners[learner.method] = learner
        return record(learner, *rest)

    monkeypatch.setattr(run, "cell_record", keep)
    assert equimos("run", folder / "c.toml", "--no-store", "--out", folder / "one").exit_code == 0
    assert measured(folder / "two") == measured(folder / "one") != []
    for method in ("mos", "slca", "ridge", "finetune", "ease"):
        found, _ = model_file.read(folder / f"{method}.safetensors")
        # Nothing is trained by ridge, and its features are computed in the same batches.
        near = 0 if method == "ridge" else 1e-4
        tensors = learners[method].export()[0]
        for name, tensor in tensors.items():
            # What a low-rank covariance leaves may be rounding alone: it is measured by the covariance.
            whole = tensors[name.removesuffix("rest") + "factor"].square() if name.endswith("/rest") else tensor
            most = near * float(whole.double().abs().max())
            torch.testing.assert_close(found[f"state/{name}"], tensor, rtol=near, atol=most, msg=f"{method}: {name}")
    for out in ("one", "two"):
        assert {path.name for path in (folder / out).iterdir()} >= {"cells", "records", "results.json", "run.json"}
        assert not (folder / out / "work").exists()
    begun = json.loads((folder / "two" / "run.json").read_text())["begun"]
    assert begun["processes"] == 2


@pytest.mark.parametrize("words", [("--jobs", "2"), ("--launcher", "slurm")])
def test_torchrun_goes_with_no_other_launcher(
    equimos: Equimos, config: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    monkeypatch.setattr(distributed, "count", lambda: 2)
    result = equimos("run", config, *words)
    assert result.stderr.endswith("leave out --jobs and --launcher\n")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


def test_strategies_of_avalanche_are_refused(
    equimos: Equimos, config: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with config.open("a") as file:
        file.write('[methods.naive]\nmethod = "avalanche.training.supervised:Naive"\n')
    monkeypatch.setattr(distributed, "count", lambda: 2)
    result = equimos("run", config, "--out", tmp_path / "out")
    assert (
        "error: methods.naive trains in Avalanche's own loop, in one process: name others with --only" in result.stderr
    )
    assert result.exit_code == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_an_error_is_said_once(folder: Path) -> None:
    done = torchrun(folder, "run", "gone.toml")
    assert done.returncode != 0
    assert done.stderr.count("error: no config at gone.toml") == 1


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_a_process_killed(folder: Path) -> None:
    """The first of the two dies after each third checkpoint; started again, they end with the same bits."""
    words = ("run", "c.toml", "settings.epochs=3", "--only", "mos", "--out")
    assert torchrun(folder, *words, "plain").returncode == 0
    kills = 0
    while (done := torchrun(folder, *words, "out", KILL_AFTER="4")).returncode:
        kills += 1
        assert "Traceback" not in done.stderr.split("elastic")[0], "what follows is torchrun's own"
        assert kills < 4
    assert kills >= 2
    assert results(folder / "out") == results(folder / "plain") != {}
