"""Sweeps and bulk answers on a local Ray of two workers: the results of one process, and nothing lost with a worker."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from continual.errors import InputError
from continual.experiments import on_ray
from tests.conftest import ROOT
from tests.support.small_runs import results

Equimos = Callable[..., Any]
MORE = """
[settings]
epochs = 3
batch_size = 4
[methods.finetune]
[sweep.one]
[sweep.two]
stream.per_class = 2
"""


def test_without_ray(equimos: Equimos, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    result = equimos("run", config, "--launcher", "ray", "--out", tmp_path / "out")
    assert 'pip install "equimos[ray]"' in result.stderr
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    result = equimos("run", config, "--launcher", "ray", "--jobs", 2)
    assert "leave out --jobs" in result.stderr


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    found = pytest.importorskip("ray", reason="Ray is not installed: the extra [ray]")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    environment = {"PYTHONPATH": str(ROOT), "EQUIMOS_CACHE": os.environ.get("EQUIMOS_CACHE", "")}
    found.init(
        num_cpus=2, include_dashboard=False, logging_level="ERROR", log_to_driver=False,
        runtime_env={"env_vars": environment},
    )  # fmt: skip
    found.cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers do not find test modules
    yield found
    found.shutdown()


pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]


def killed_once(config: Any, out: Path, label: str, seed: int, *rest: Any) -> bool:
    """Run a cell, on a worker that dies at its second checkpoint, the first time."""
    from continual.experiments import run
    from continual.learning import checkpoints

    mark, write, left = out / f".killed-{label}-{seed}", checkpoints.write, [2]

    def count(*args: Any) -> None:
        write(*args)
        left[0] -= 1
        if left[0] == 0 and not mark.exists():
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoints.write = count  # type: ignore[assignment]
    try:
        return run.make_cell(config, out, label, seed, *rest)
    finally:
        checkpoints.write = write


@pytest.mark.slow
def test_a_sweep_on_ray_is_that_of_one_process(
    ray: Any, equimos: Equimos, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pandas = pytest.importorskip("pandas")
    with config.open("a") as file:
        file.write(MORE)
    words = ["run", config, "seeds=[1]", "--no-store", "--out"]
    monkeypatch.setattr(on_ray, "_cell", killed_once)
    done = equimos(*words, tmp_path / "ray", "--launcher", "ray", "--ray", "num_cpus=1")
    assert done.exit_code == 0, done.stderr
    assert equimos(*words, tmp_path / "one").exit_code == 0
    for name in ("one", "two"):
        assert results(tmp_path / "ray" / name) == results(tmp_path / "one" / name) != {}
        assert len([*(tmp_path / "ray" / name).glob(".killed-*")]) == 2, "every cell's worker was killed once"
        assert not (tmp_path / "ray" / name / "work").exists()
        assert (tmp_path / "ray" / name / "accuracy.png").is_file()
    table = pandas.read_parquet(tmp_path / "ray" / on_ray.EXPERIENCES)
    assert len(table) == 2 * 2 * 2
    assert {*table.label} == {"simple_cil", "finetune"}
    # What is finished is not run again, and a file that is lost is written anew.
    (tmp_path / "ray" / on_ray.EXPERIENCES / "one-finetune-1.parquet").unlink()
    monkeypatch.setattr(on_ray, "_cell", lambda *_: pytest.fail("there is nothing to run"))
    assert equimos(*words, tmp_path / "ray", "--launcher", "ray").exit_code == 0
    assert len(pandas.read_parquet(tmp_path / "ray" / on_ray.EXPERIENCES)) == len(table)


def fails(number: int) -> bool:
    if number == 1:
        raise InputError("this one is wrong")
    return number != 2


@pytest.mark.slow
def test_errors_of_tasks_come_when_all_have_ended(ray: Any) -> None:
    done: list[str] = []
    with pytest.raises(InputError, match="2 of 4 tasks failed: .*; the same command resumes") as error:
        on_ray.on_ray(fails, {f"number {n}": (n,) for n in range(4)}, {}, done.append)
    assert "this one is wrong" in str(error.value) or "another process is at it" in str(error.value)
    assert "Traceback" not in str(error.value)
    assert sorted(done) == ["number 0", "number 3"]
    with pytest.raises(InputError, match="Ray refuses --ray .*no_such=1"):
        on_ray.on_ray(fails, {"number 0": (0,)}, {"no_such": 1}, done.append)


@pytest.mark.slow
def test_bulk_answers_on_ray_are_those_of_one_process(
    ray: Any, equimos: Equimos, model: Path, pictures: Callable[..., Path], tmp_path: Path
) -> None:
    pandas = pytest.importorskip("pandas")
    images = pictures("asked", ["rose", "tulip", "iris"], 3)
    words = ["predict", images, "--model", model, "--device", "cpu", "--part", 2, "--parquet"]
    done = equimos(*words, tmp_path / "ray", "--launcher", "ray")
    assert done.exit_code == 0, done.stderr
    assert done.stderr.count(": written") == 5
    assert equimos(*words, tmp_path / "one").exit_code == 0
    pandas.testing.assert_frame_equal(pandas.read_parquet(tmp_path / "ray"), pandas.read_parquet(tmp_path / "one"))
