"""Answers as a parquet data set in parts: those of `predict`, whoever makes a part, and whatever is killed."""

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

from continual.cli import bulk
from continual.errors import InputError
from continual.experiments import launching
from continual.lifecycle import locks
from continual.lifecycle.parts import Parts
from tests.conftest import ROOT

pandas = pytest.importorskip("pandas")
pytest.importorskip("pyarrow")

Equimos = Callable[..., Any]

#: `equimos`, killed when it has written so many parts
PROGRAM = """
import os, signal
from continual.lifecycle import parts
from continual.cli.app import main
write, left = parts.write, [int(os.environ["KILL_AFTER"])]
def count(*args):
    if not left[0]:
        os.kill(os.getpid(), signal.SIGKILL)
    left[0] -= 1
    write(*args)
parts.write = count
main()
"""


@pytest.fixture
def images(pictures: Callable[..., Path]) -> Path:
    return pictures("asked", ["rose", "tulip", "iris"], 3)


def read(folder: Path) -> list[dict[str, Any]]:
    table = pandas.read_parquet(folder)
    return table.astype(object).where(table.notna(), None).to_dict("records")


@pytest.mark.parametrize("content", ["", '{"model": ', "[1]", "7"])
def test_a_damaged_note_of_what_answers_are_of_is_said(tmp_path: Path, content: str) -> None:
    parts = Parts(tmp_path / "answers", 3)
    parts.claim({"model": "a"})
    (parts.folder / "_answers.json").write_text(content)
    with pytest.raises(InputError, match="_answers.json is damaged, .* delete"):
        parts.claim({"model": "a"})


def test_parts_hold_what_predict_says(equimos: Equimos, model: Path, images: Path, tmp_path: Path) -> None:
    out, file = tmp_path / "answers", tmp_path / "answers.json"
    words = ["predict", images, "--model", model, "--device", "cpu", "--set", "eval_batch_size=2"]
    done = equimos(*words, "--parquet", out, "--part", 4)
    assert done.exit_code == 0, done.stderr
    assert "9 images in 3 parts, 3 to be made" in done.stderr
    assert [path.name for path in sorted(out.glob("part*"))] == [f"part-00000{n}.parquet" for n in range(3)]
    equimos(*words, "--json", file)
    for found, expected in zip(read(out), json.loads(file.read_text()), strict=True):
        assert found.pop("error") is None
        assert found == expected
    marks = [path.stat().st_mtime_ns for path in sorted(out.glob("part*"))]
    (out / "part-000001.parquet").unlink()
    again = equimos(*words, "--parquet", out, "--part", 4)
    assert "3 parts, 1 to be made" in again.stderr
    assert len(read(out)) == 9
    now = [path.stat().st_mtime_ns for path in sorted(out.glob("part*"))]
    assert [a == b for a, b in zip(marks, now, strict=True)] == [True, False, True]


def test_an_image_that_cannot_be_read_has_an_error(equimos: Equimos, model: Path, images: Path, tmp_path: Path) -> None:
    (images / "iris" / "1.png").write_bytes(b"no image")
    out = tmp_path / "answers"
    assert equimos("predict", images, "--model", model, "--device", "cpu", "--parquet", out).exit_code == 0
    found = {record["file"]: record for record in read(out)}
    assert len(found) == 9
    broken = found.pop(str(images / "iris" / "1.png"))
    assert "1.png" in broken["error"]
    assert broken["answer"] is None
    assert all(record["error"] is None and record["answer"] in ("rose", "tulip") for record in found.values())


def test_a_folder_of_other_answers_is_left_alone(equimos: Equimos, model: Path, images: Path, tmp_path: Path) -> None:
    out, words = tmp_path / "answers", ["predict", "--model", model, "--device", "cpu"]
    assert equimos(*words, images, "--parquet", out).exit_code == 0
    for more, what in (
        (["--part", 3], "size of parts"),
        (["--false-alarm-rate", "0.1"], "settings"),
        (["--set", "eval_batch_size=5"], "settings"),
    ):
        refused = equimos(*words, images, "--parquet", out, *more)
        assert refused.exit_code == 2
        assert f"holds answers of other {what}: name another folder, or delete it" in refused.stderr
    refused = equimos(*words, images / "rose", "--parquet", out)
    assert "holds answers of other images" in refused.stderr
    refused = equimos(*words, images, "--parquet", images)
    assert "is not empty and holds no answers" in refused.stderr
    for more in (["--json", "-"], ["--csv", "-"]):
        assert "--parquet goes without" in equimos(*words, images, "--parquet", out, *more).stderr
    assert "of --parquet DIR" in equimos(*words, images, "--jobs", 2).stderr


def test_a_part_that_another_process_is_at_is_left_to_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = Parts(tmp_path / "answers", 2)
    parts.claim({"model": "m"})
    schema = bulk.schema_of(bulk.TYPES)
    assert parts.make(1, lambda: [{"file": "a"}], schema)
    assert parts.make(1, lambda: pytest.fail("it is there"), schema)
    with monkeypatch.context() as patch:
        patch.setattr(locks, "_locked", lambda *_: None)
        assert not parts.make(0, lambda: pytest.fail("another is at it"), schema)
        assert parts.make(1, lambda: pytest.fail("it is there"), schema)
    assert parts.missing() == [0]
    assert [path.name for path in parts.folder.iterdir() if path.name[0] == "."] == []


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_processes_lose_nothing(equimos: Equimos, model: Path, images: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "answers", tmp_path / "whole"
    (tmp_path / "program.py").write_text(PROGRAM)
    words = ["predict", images, "--model", model, "--device", "cpu", "--part", 2]
    for wrote in (1, 0, 2):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "KILL_AFTER": str(wrote)}
        command = [sys.executable, tmp_path / "program.py", *words, "--parquet", out]
        done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == -signal.SIGKILL, done.stderr
    assert len([*out.glob("part*")]) == 3
    assert equimos(*words, "--parquet", out, "--jobs", 2).exit_code == 0
    assert equimos(*words, "--parquet", whole).exit_code == 0
    assert read(out) == read(whole)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
def test_parts_on_a_cluster(
    equimos: Equimos, model: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through submitit's own executor for this machine."""
    pytest.importorskip("submitit")
    submitted, on_cluster = [], launching.on_cluster

    def local(words: list[str], jobs: int, folder: Path, options: dict[str, Any]) -> list[Any]:
        submitted.extend(on_cluster(words, jobs, folder, options, cluster="local"))
        return submitted

    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr(launching, "on_cluster", local)
    words = ["predict", images, "--model", model, "--device", "cpu", "--part", 2, "--parquet", tmp_path / "answers"]
    done = equimos(*words, "--launcher", "slurm", "--jobs", 2, "--slurm", "timeout_min=5")
    assert done.exit_code == 0, done.stderr
    for job in submitted:
        job.result()
    submitted.clear()
    assert "5 parts, 0 to be made" in equimos(*words).stderr
    assert len(read(tmp_path / "answers")) == 9


def test_without_pyarrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(InputError, match=r'parquet needs pyarrow: pip install "equimos\[pandas\]"'):
        bulk.schema_of(bulk.TYPES)
