"""What a kill, a full disk and a read-only folder leave of a model file: the old version or the new one, whole."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

import continual
from continual import files
from continual.cli.app import app
from continual.errors import ModelFileError
from continual.learning import model_file
from continual.lifecycle import locks, versions
from tests.support.kills import die_before
from tests.support.refusals import refused

Equimos = Callable[..., Any]
Pictures = Callable[..., Path]
Tensors = dict[str, Tensor]


@pytest.fixture
def commands(pictures: Pictures, other_weights: Path) -> dict[str, list[str]]:
    """What is interrupted."""
    more, odd, others = pictures("more", ["iris"]), pictures("odd", ["lily"]), pictures("others", ["oak", "elm"])
    things = pictures("things", [f"thing {number}" for number in range(20)], 1)
    stamp = others.with_name("stamp.png")
    Image.new("RGB", (8, 8), (255, 0, 0)).save(stamp)
    return {
        "concept": ["concept", "suppress", "--stamp", str(stamp), "--images", str(others), "--size", "0.5"],
        "port": ["port", "--yes", "--images", str(things), "--to-weights", str(other_weights)],
        "learn": ["learn", "--yes", "--images", str(more)],
        "correct": ["correct", str(odd), "--class", "tulip"],
        "forget": ["forget", "rose"],
        "rename": ["rename", "rose", "wild rose"],
    }


def _forked(words: list[str], said: Path | None = None) -> int:
    """Start a command in a copy of this process, which has everything imported; return the copy's id.

    What it says on standard error is written to a file, if one is given.
    """
    child = os.fork()
    if child == 0:
        code = 1
        try:
            result = CliRunner().invoke(app, words)
            code = result.exit_code
            if said is not None:
                said.write_text(result.stderr)
        finally:
            os._exit(code)
    return child


def _restored(model: Path, original: Path) -> None:
    """Put the first version back, in a folder without others."""
    shutil.rmtree(model.parent)
    model.parent.mkdir()
    shutil.copy(original, model)


def _content(model: Path) -> Tensors:
    """Everything in a model file that a command may change: tensors, and the classes' names as bytes."""
    tensors, header = model_file.read(model)
    return {**tensors, "names": torch.tensor([*str(header["state"]["classes"]).encode()])}


def _same(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize(
    "name",
    [
        "learn",
        "forget",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("correct", "rename", "port", "concept")),
    ],
)
def test_killed_at_random_moments(model: Path, trained: Path, commands: dict[str, list[str]], name: str) -> None:
    """SIGKILL: after each, the file holds the old content or the new, and loads; so does every version.

    EQUIMOS_KILLS says how many times, of all five commands together.
    """
    words, draw = [*commands[name], "--model", str(model), "--device", "cpu"], random.Random(name)
    old = _content(model)
    started = time.monotonic()
    assert os.waitpid(_forked(words), 0)[1] == 0
    duration, new = time.monotonic() - started, _content(model)
    assert not _same(old, new)
    kills, left = 0, set[bool]()
    while kills < int(os.environ.get("EQUIMOS_KILLS", "12")) / 5:
        _restored(model, trained)
        child = _forked(words)
        # Most of the time goes by before anything is written; every other kill comes when it may be.
        wait = duration * draw.uniform(0.85 if kills % 2 else 0.0, 1.1)
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        if status == 0:  # done before it could be killed: the machine was slower the first time
            duration = min(duration, wait)
        assert status in (0, signal.SIGKILL)
        kills += status == signal.SIGKILL
        now = _content(model)
        assert _same(now, old) or _same(now, new)
        left.add(_same(now, old))
        continual.load(model)
        for version in versions.versions(model):
            version.about()
        assert len(versions.versions(model)) == 1 + _same(now, new)
    # What was left behind by a kill is in nobody's way.
    _restored(model, trained)
    assert os.waitpid(_forked(words), 0)[1] == 0
    assert True in left


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("name", ["rollback", "allow"])
def test_killed_while_something_is_taken_back(
    model: Path, tmp_path: Path, commands: dict[str, list[str]], name: str
) -> None:
    """SIGKILL of a command that needs an earlier version: both versions are whole after it, and one is in use."""
    first = ["rename", "rose", "wild rose"] if name == "rollback" else commands["concept"]
    words = [*(["rollback"] if name == "rollback" else ["concept", "allow", "stamp"]), "--model", str(model)]
    before = _content(model)
    assert os.waitpid(_forked([*first, "--model", str(model)]), 0)[1] == 0
    shutil.copytree(model.parent, tmp_path / "begin")
    old, draw = _content(model), random.Random(name)
    started = time.monotonic()
    assert os.waitpid(_forked(words), 0)[1] == 0
    duration, new = time.monotonic() - started, _content(model)
    assert _same(new, before)
    kills = 0
    while kills < int(os.environ.get("EQUIMOS_KILLS", "12")) / 4:
        shutil.rmtree(model.parent)
        shutil.copytree(tmp_path / "begin", model.parent)
        child = _forked(words)
        wait = duration * draw.uniform(0.7 if kills % 2 else 0.0, 1.1)
        time.sleep(wait)
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        duration = min(duration, wait) if status == 0 else duration
        kills += status == signal.SIGKILL
        now = _content(model)
        assert _same(now, old) or _same(now, new)
        continual.load(model)
        contents = [_content(version.path) for version in versions.versions(model)]
        assert any(_same(one, old) for one in contents)
        assert any(_same(one, new) for one in contents)
    assert os.waitpid(_forked(["history", "--model", str(model)]), 0)[1] == 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_while_another_process_writes_every_command_is_refused(
    model: Path, commands: dict[str, list[str]], tmp_path: Path
) -> None:
    """Each in a process of its own, for a lock does not bind the process that holds it."""
    before = model.read_bytes()
    every = [*commands.values(), ["forget", "rose", "--everywhere"], ["rollback"]]
    with locks.claimed(model):
        for number, words in enumerate(every):
            child = _forked([*words, "--model", str(model)], tmp_path / f"{number}.txt")
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 2, words
            said = (tmp_path / f"{number}.txt").read_text().splitlines()[-1]
            assert said.startswith(f"error: {model} is being written by process {os.getpid()} on "), words
    assert model.read_bytes() == before
    assert list(model.parent.iterdir()) == [model]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_an_exported_file_is_the_old_one_or_the_new(tmp_path: Path) -> None:
    """What `export` and `consolidate` write, by a process that is killed before its n-th step there, for every n."""
    target = tmp_path / "box" / "model.onnx"
    target.parent.mkdir()
    for step in range(1, 100):
        target.write_bytes(b"old")
        child = os.fork()
        if child == 0:
            die_before(step, str(target.parent))
            with files.written(target) as place:
                place.write_bytes(b"new")
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        assert target.read_bytes() in (b"old", b"new")
        if status == 0:
            break
    assert target.read_bytes() == b"new"
    assert 3 < step < 99


def test_an_exported_file_on_a_full_disk(small_disk: Path) -> None:
    target, there = small_disk.with_suffix(".onnx"), sorted(small_disk.parent.iterdir())
    with pytest.raises(ModelFileError, match="cannot write .*No space left"), files.written(target) as place:
        place.write_bytes(bytes(2**20))
    assert sorted(small_disk.parent.iterdir()) == there


@pytest.fixture
def small_disk(tmp_path: Path, model: Path) -> Iterator[Path]:
    """The model on a file system in memory that has 8 KiB left: less than a model takes."""
    place = tmp_path / "disk"
    place.mkdir()
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("mounting a small disk takes Linux and root")
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"cannot mount a small disk: {done.stderr.decode().strip()}")
    try:
        shutil.copy(model, place)
        (place / "filler").write_bytes(bytes(shutil.disk_usage(place).free - 8192))
        yield place / model.name
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize("name", ["learn", "correct", "forget", "rename", "concept"])
@pytest.mark.parametrize("state", ["full", "read-only"])
def test_a_disk_that_is_full_or_read_only(
    equimos: Equimos, small_disk: Path, model: Path, commands: dict[str, list[str]], name: str, state: str
) -> None:
    there = sorted(small_disk.parent.iterdir())
    if state == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", small_disk.parent], check=True)
    line = refused(equimos(*commands[name], "--model", small_disk), "cannot write", small_disk.parent)
    assert {"full": "No space left", "read-only": "Read-only file system"}[state] in line
    assert small_disk.read_bytes() == model.read_bytes()
    assert sorted(small_disk.parent.iterdir()) == there


@pytest.mark.parametrize("state", ["full", "full, without links", "read-only"])
def test_rollback_on_a_disk_that_is_full_or_read_only(
    equimos: Equimos, small_disk: Path, model: Path, monkeypatch: pytest.MonkeyPatch, state: str
) -> None:
    """A link to the earlier version takes no space, so a full disk is in the way only where there are no links."""
    filler = small_disk.parent / "filler"
    filler.unlink()
    assert equimos("rename", "rose", "lily", "--model", small_disk).exit_code == 0
    filler.write_bytes(bytes(shutil.disk_usage(small_disk.parent).free))
    now, there = small_disk.read_bytes(), sorted(small_disk.parent.rglob("*"))
    if state == "full":
        assert equimos("rollback", "--model", small_disk).exit_code == 0
        assert small_disk.read_bytes() == model.read_bytes()
        assert [version.number for version in versions.versions(small_disk)] == [1, 2]
        return
    if state == "read-only":
        subprocess.run(["mount", "-o", "remount,ro", small_disk.parent], check=True)
    else:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    line = refused(equimos("rollback", "--model", small_disk), "cannot write", small_disk.parent)
    assert ("Read-only file system" if state == "read-only" else "No space left") in line
    assert small_disk.read_bytes() == now
    assert sorted(small_disk.parent.rglob("*")) == there


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_to_write(equimos: Equimos, model: Path, commands: dict[str, list[str]]) -> None:
    before = model.read_bytes()
    model.parent.chmod(0o555)
    try:
        for words in (*commands.values(), ["rollback"]):
            refused(equimos(*words, "--model", model), "cannot write in", "Permission denied")
    finally:
        model.parent.chmod(0o755)
    assert model.read_bytes() == before


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
def test_two_writers_of_which_one_is_killed(
    model: Path, trained: Path, commands: dict[str, list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL, of one of two that write the same model with different temporary folders, at a random moment.

    Nothing is torn, and nothing lost: what a command has done that ended well is a version. EQUIMOS_KILLS says how many
    kills.
    """
    draw, events = random.Random(0), dict.fromkeys(commands, "")
    commands["rollback"] = ["rollback"]
    events |= {"learn": "learned iris", "correct": "corrected 4 images of tulip", "forget": "forgot rose"}
    events["port"] = "ported from"
    events |= {"rename": "renamed rose to wild rose", "rollback": "before", "concept": "suppressed stamp"}

    def begin() -> None:
        _restored(model, trained)
        versions.rename(model, "before", "tulip", "x")
        versions.rename(model, "between", "x", "tulip")

    def start(name: str, writer: str) -> int:
        monkeypatch.setenv("TMPDIR", str(tmp_path / writer))
        monkeypatch.setattr(tempfile, "tempdir", None)
        return _forked([*commands[name], "--model", str(model)])

    for writer in "ab":
        (tmp_path / writer).mkdir()
    durations = {}
    for name in commands:
        begin()
        started = time.monotonic()
        assert os.waitpid(start(name, "a"), 0)[1] == 0
        durations[name] = time.monotonic() - started
    kills, done = 0, 0
    while kills < int(os.environ.get("EQUIMOS_KILLS", "200")):
        begin()
        first, second = draw.sample(sorted(commands), 2)
        one, other = start(first, "a"), start(second, "b")
        time.sleep(durations[first] * draw.uniform(0.3, 1.5))
        os.kill(one, signal.SIGKILL)
        killed, left = os.waitpid(one, 0)[1], os.waitpid(other, 0)[1]
        kills += killed == signal.SIGKILL
        found = [version.about() for version in versions.versions(model)]
        for version in versions.versions(model):
            assert _content(version.path)
        continual.load(model)
        for name, status in ((first, killed), (second, left)):
            if status == 0:
                done += 1
                assert any(row["event"].startswith(events[name]) for row in found), name
        assert {"learned rose, tulip", "before", "between"} <= {row["event"] for row in found}
        before = len(found)
        assert os.waitpid(start("rename", "b"), 0)[1] in (0, 2 << 8)
        assert len(versions.versions(model)) - before in (0, 1)
        assert not list(model.parent.glob(".*")), "what a kill left is cleared away by the next command"
    print(f"{kills} kills, {done} commands ended well")
