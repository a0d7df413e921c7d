"""Who may replace a file: one at a time, whatever their temporary folders; and what lies in the way is left alone."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import continual
from continual.errors import InputError, ModelFileError
from continual.lifecycle import contents, locks, versions
from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs POSIX locks")

#: adds one letter to a file's content, as a writer does that reads, thinks and writes; again until it may
WRITER = """
import sys, time
from pathlib import Path
from continual.errors import EquimosError
from continual.lifecycle import locks, versions
model, letter = Path(sys.argv[1]), sys.argv[2]
for _ in range(6):
    while True:
        try:
            with locks.claimed(model):
                text = model.read_text() + letter
                time.sleep(0.02)
                versions.replace(model, lambda place: place.write_text(text))
            break
        except EquimosError as error:
            assert "is being written by" in str(error), error
            time.sleep(0.005)
"""


def test_two_writers_with_different_temporary_folders_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two jobs, containers or users, each with a TMPDIR of its own."""
    model = tmp_path / "model"
    model.write_text("")
    writers = []
    for letter in "ab":
        (tmp_path / f"tmp-{letter}").mkdir()
        environment = {**os.environ, "TMPDIR": str(tmp_path / f"tmp-{letter}"), "PYTHONPATH": str(ROOT)}
        words = [sys.executable, "-c", WRITER, str(model), letter]
        writers.append(subprocess.Popen(words, env=environment, stderr=subprocess.PIPE))
    for writer in writers:
        assert writer.wait(60) == 0, writer.stderr and writer.stderr.read().decode()
        assert writer.stderr is not None
        writer.stderr.close()
    assert sorted(model.read_text()) == sorted("ab" * 6)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("kind", ["link", "hard link", "pipe", "folder"])
def test_what_lies_in_the_place_of_a_lock_is_left_alone(tmp_path: Path, kind: str) -> None:
    model, victim, lock = tmp_path / "model", tmp_path / "victim", tmp_path / ".model.lock"
    model.write_text("model")
    victim.write_text("precious")
    if kind == "link":
        lock.symlink_to(victim)
    elif kind == "hard link":
        os.link(victim, lock)
    elif kind == "pipe":
        os.mkfifo(lock)
    else:
        lock.mkdir()
    with pytest.raises(InputError, match=r"cannot lock .*\.model\.lock"), locks.claimed(model):
        pass
    assert victim.read_text() == "precious"
    assert os.path.lexists(lock)
    assert locks.owner(lock)


@pytest.mark.parametrize("how", ["rename", "in place", "gone"])
def test_what_a_program_without_a_lock_made_is_not_replaced(model: Path, how: str) -> None:
    learner = continual.load(model)
    learner.rename("rose", "wild rose")
    with locks.claimed(model):
        other = Path(shutil.copy(model, model.with_name("other")))
        if how == "rename":
            other.replace(model)
        elif how == "in place":
            model.write_bytes(other.read_bytes() + b" ")
        else:
            model.unlink()
        before = model.read_bytes() if how != "gone" else b""
        with pytest.raises(ModelFileError, match="changed by another program"):
            versions.save(learner, model, "renamed", embed_backbone=False)
    assert (model.read_bytes() if how != "gone" else b"") == before
    assert not versions.folder_of(model).exists()


def test_several_changes_in_one_block(model: Path) -> None:
    with locks.claimed(model), locks.claimed(model):
        versions.rename(model, "once", "rose", "a")
        versions.rename(model, "twice", "a", "b")
    assert contents.read(model).classes[0] == "b"
    assert not list(model.parent.glob(".*"))


def test_another_thread_is_refused(model: Path) -> None:
    said = []

    def other() -> None:
        try:
            versions.rename(model, "other", "rose", "a")
        except InputError as error:
            said.append(str(error))

    with locks.claimed(model):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
    assert len(said) == 1
    assert "another thread" in said[0]
    other()
    assert len(said) == 1


def test_a_file_system_without_locks(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A change by others is found all the same."""
    import fcntl

    monkeypatch.setattr(fcntl, "lockf", lambda *_: (_ for _ in ()).throw(OSError(38, "Function not implemented")))
    versions.rename(model, "once", "rose", "a")
    with locks.claimed(model):
        model.write_bytes(model.read_bytes() + b" ")
        with pytest.raises(ModelFileError, match="another program"):
            versions.replace(model, lambda place: place.write_text("x"))


@pytest.mark.parametrize("mode", [0o600, 0o640, 0o664])
def test_a_model_keeps_its_mode(model: Path, mode: int) -> None:
    """Also while the new one is written, whatever the umask."""
    model.chmod(mode)
    seen = []

    def write(place: Path) -> None:
        seen.append(stat.S_IMODE(place.stat().st_mode))
        learner.save(place)
        seen.append(stat.S_IMODE(place.stat().st_mode))

    learner = continual.load(model)
    old = os.umask(0o022)
    try:
        versions.replace(model, write)
        versions.rename(model, "renamed", "rose", "a")
        versions.rollback(model)
    finally:
        os.umask(old)
    assert seen == [0o600, 0o600]
    assert {stat.S_IMODE(version.path.stat().st_mode) for version in versions.versions(model)} == {mode}
