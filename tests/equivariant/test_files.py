"""Files of `equivariant` are the old ones or the new ones, whole."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest
import torch

from equivariant.checks.evaluation import Evaluation
from equivariant.errors import InputError
from equivariant.files import save_figure, written
from equivariant.tuning import run
from equivariant.tuning.result import Record, TuningResult
from tests.support.kills import die_before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("name", ["checkpoint.safetensors", "course.json", "course.png"])
def test_killed_at_every_step_a_file_is_the_old_one_or_the_new(tmp_path: Path, name: str) -> None:
    def write(path: Path, value: int) -> None:
        result = TuningResult("C4", [Record(0, value, None, 1.0, 0.5)], after=Evaluation(0.5, 0.5))
        if path.suffix == ".safetensors":
            run._write(path, {"a": torch.full((3,), float(value))}, {"value": value})
        else:
            (result.save if path.suffix == ".json" else result.plot)(path)

    target = tmp_path / "box" / name
    target.parent.mkdir()
    write(target, 1)
    new = target.read_bytes()
    write(target, 0)
    old = target.read_bytes()
    assert old != new
    for step in range(1, 200):
        if (child := os.fork()) == 0:
            die_before(step, str(target.parent))
            write(target, 1)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        assert target.read_bytes() in (old, new)
        if status == 0:
            break
        target.write_bytes(old)
    assert target.read_bytes() == new
    assert 2 < step < 199


def test_the_folder_is_synced_after_the_rename(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[bool] = []
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda place: (synced.append(stat.S_ISDIR(os.fstat(place).st_mode)), sync(place)))
    run._write(tmp_path / "checkpoint.safetensors", {"a": torch.zeros(2)}, {})
    assert synced == [False, True]


def test_a_checkpoint_is_read_and_not_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import safetensors

    def mapped(*_: Any, **__: Any) -> None:
        raise AssertionError("the file was mapped to memory")

    path = tmp_path / "checkpoint.safetensors"
    run._write(path, {"a": torch.arange(3.0)}, {"stage": 1})
    monkeypatch.setattr(safetensors, "safe_open", mapped)
    tensors, values = run._read(path)
    assert values == {"stage": 1}
    torch.testing.assert_close(tensors, {"a": torch.arange(3.0)})
    for damaged in (b"", path.read_bytes()[:-1], path.read_bytes()[:20]):
        path.write_bytes(damaged)
        with pytest.raises(InputError, match="damaged or no checkpoint"):
            run._read(path)


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail() -> None:
        with written(target) as place:
            place.write_text("new")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_a_figure_without_a_suffix_is_a_png(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    save_figure(Figure(), tmp_path / "course")
    assert (tmp_path / "course.png").read_bytes().startswith(b"\x89PNG")
