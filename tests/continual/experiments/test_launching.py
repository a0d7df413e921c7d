"""Several processes on one run folder."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from continual.errors import InputError
from continual.experiments import launching
from continual.lifecycle import locks

Equimos = Callable[..., Any]
ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(autouse=True)
def _here(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Yield another process that holds the lock `tmp_path / "lock"` until it is killed."""
    code = (
        "import sys; from pathlib import Path; from continual.lifecycle.locks import held\n"
        "with held(Path(sys.argv[1])) as mine: print(mine, flush=True); sys.stdin.read()"
    )
    words = [sys.executable, "-c", code, str(tmp_path / "lock")]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "True\n"
        yield process
        process.kill()


def test_a_lock_binds_until_its_owner_is_gone(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    with locks.held(tmp_path / "lock") as mine:
        assert not mine
    assert locks.owner(tmp_path / "lock").startswith(f"process {holder.pid} on ")
    holder.kill()
    holder.wait()
    assert (tmp_path / "lock").exists(), "the file of the dead is still there, and binds no one"
    with locks.held(tmp_path / "lock") as mine:
        assert mine
        assert locks.owner(tmp_path / "lock").startswith(f"process {os.getpid()} on ")
    assert not (tmp_path / "lock").exists()


def test_a_cell_another_process_is_at_is_left_to_it(
    equimos: Equimos, config: Path, holder: subprocess.Popen[str], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    equimos("run", config, "--out", out)
    (out / "cells" / "simple_cil-1993.json").unlink()
    (out / "work").mkdir()
    (tmp_path / "lock").rename(out / "work" / "simple_cil-1993.lock")
    result = equimos("run", config, "--out", out)
    assert f"simple_cil, seed 1993, is left to process {holder.pid} on " in result.stderr
    assert not (out / "cells" / "simple_cil-1993.json").exists()
    holder.kill()
    holder.wait()
    assert equimos("run", config, "--out", out).exit_code == 0
    assert (out / "cells" / "simple_cil-1993.json").exists()


@pytest.mark.slow
def test_two_learners_of_one_file(model: Path, flowers: Path) -> None:
    before, link = model.read_bytes(), model.with_name("link")
    link.symlink_to(model)
    words = [*launching.COMMAND, "learn", "--yes", "--images", str(flowers), "--model", str(link)]
    with locks.claimed(model):
        result = subprocess.run(words, capture_output=True, text=True, check=False)
    assert result.stderr.startswith(f"error: {model} is being written by process {os.getpid()} on ")
    assert (result.returncode, result.stdout, result.stderr.count("\n")) == (2, "", 1)
    assert model.read_bytes() == before


@pytest.mark.slow
def test_two_jobs_share_the_cells_of_a_sweep(equimos: Equimos, config: Path, tmp_path: Path) -> None:
    with config.open("a") as file:
        file.write("[methods.ridge]\n[sweep.one]\n[sweep.two]\nstream.per_class = 2\n")
    result = equimos("run", config, "seeds=[1, 2]", "--jobs", 2, "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    said = [line for line in result.stderr.splitlines() if "seed" in line and ": 2 experiences in" in line]
    assert len(said) == 8, "each of two runs, methods and seeds was run once"
    for name in ("one", "two"):
        cells = json.loads((tmp_path / "out" / name / "results.json").read_text())
        assert [(c["label"], c["seed"]) for c in cells] == [(m, s) for s in (1, 2) for m in ("simple_cil", "ridge")]
        assert not (tmp_path / "out" / name / "work").exists()


@pytest.mark.slow
def test_the_error_of_a_job_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    with pytest.raises(InputError, match=r"2 of 2 jobs failed: no config at gone.toml; the same command resumes"):
        launching.on_this_machine(["run", "gone.toml"], 2, said.append)
    assert sorted(said) == [f"[{n}] error: no config at gone.toml" for n in (1, 2)]


def test_launchers_that_are_not_there(equimos: Equimos, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = equimos("run", config, "--launcher", "slum")
    assert "unknown launcher 'slum': did you mean 'slurm'" in result.stderr
    monkeypatch.setitem(sys.modules, "submitit", None)
    result = equimos("run", config, "--launcher", "slurm")
    assert 'pip install "equimos[slurm]"' in result.stderr
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_jobs_of_a_cluster(config: Path, tmp_path: Path) -> None:
    """Through submitit's own executor for this machine."""
    pytest.importorskip("submitit")
    words = ["run", str(config), "--out", str(tmp_path / "out")]
    jobs = launching.on_cluster(words, 2, tmp_path / "logs", {"timeout_min": 5}, cluster="local")
    for job in jobs:
        job.result()
    del job, jobs  # submitit warns of processes that nobody waited for when its jobs are collected
    gc.collect()
    assert (tmp_path / "out" / "cells" / "simple_cil-1993.json").is_file()
    with pytest.raises(InputError, match="cannot submit to local: .*no_such"):
        launching.on_cluster(words, 1, tmp_path / "logs", {"no_such": 5}, cluster="local")


@pytest.mark.parametrize(
    "places",
    [
        pytest.param("", id="none", marks=pytest.mark.slow),
        pytest.param(str(ROOT), id="root", marks=pytest.mark.slow),
        pytest.param(f"{ROOT}{os.pathsep}", id="empty entry"),
    ],
)
def test_no_file_of_the_working_folder_is_run_by_started_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, places: str
) -> None:
    for name in ("colorsys", "continual", "typer"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w').close()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", places)
    launching.on_this_machine(["--version"], 1, lambda _: None)
    with pytest.raises(InputError, match="1 of 1 jobs failed: no config at gone.toml"):
        launching.on_this_machine(["show", "gone.toml"], 1, lambda _: None)
    assert not (tmp_path / "owned").exists()


def test_python_m_runs_no_file_of_the_working_folder_for_a_module(tmp_path: Path) -> None:
    for name in ("colorsys", "typer"):
        (tmp_path / f"{name}.py").write_text(f"open({str(tmp_path / 'owned')!r}, 'w').close()\n")
    words = [sys.executable, "-m", "continual", "--version"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("equimos "), done.stderr
    assert not (tmp_path / "owned").exists()
