"""What a kill, a full disk and a read-only folder leave of a model file: the old version or the new one, whole."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from typer.testing import CliRunner

import continual
from continual import artefact
from continual.bench import versions
from continual.bench.cli import app
from tests.continual.bench.refusals import refused

Equimos = Callable[..., Any]
Pictures = Callable[..., Path]
Tensors = dict[str, Tensor]


@pytest.fixture
def commands(pictures: Pictures) -> dict[str, list[str]]:
    """What is interrupted."""
    more, odd = pictures("more", ["iris"]), pictures("odd", ["lily"])
    return {
        "learn": ["learn", "--yes", "--images", str(more)],
        "correct": ["correct", str(odd), "--class", "tulip"],
        "forget": ["forget", "rose"],
    }


def _forked(words: list[str]) -> int:
    """Start a command in a copy of this process, which has everything imported; return the copy's id."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = CliRunner().invoke(app, words).exit_code
        finally:
            os._exit(code)
    return child


def _restored(model: Path, original: Path) -> None:
    """Put the first version back, in a folder without others."""
    shutil.rmtree(model.parent)
    model.parent.mkdir()
    shutil.copy(original, model)


def _same(a: Tensors, b: Tensors) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("name", ["learn", "correct", "forget"])
def test_killed_at_random_moments(model: Path, trained: Path, commands: dict[str, list[str]], name: str) -> None:
    """SIGKILL: after each, the file holds the old tensors or the new ones, and loads; so does every version.

    EQUIMOS_KILLS says how many times, of all three commands together.
    """
    words, draw = [*commands[name], "--model", str(model), "--device", "cpu"], random.Random(name)
    old = artefact.read(model)[0]
    started = time.monotonic()
    assert os.waitpid(_forked(words), 0)[1] == 0
    duration, new = time.monotonic() - started, artefact.read(model)[0]
    assert not _same(old, new)
    kills, left = 0, set[bool]()
    while kills < int(os.environ.get("EQUIMOS_KILLS", "12")) / 3:
        _restored(model, trained)
        child = _forked(words)
        # Most of the time goes by before anything is written; every other kill comes when it may be.
        time.sleep(duration * draw.uniform(0.85 if kills % 2 else 0.0, 1.1))
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        assert status in (0, signal.SIGKILL)
        kills += status == signal.SIGKILL
        now = artefact.read(model)[0]
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


@pytest.mark.parametrize("name", ["learn", "correct", "forget"])
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


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_without_permission_to_write(equimos: Equimos, model: Path, commands: dict[str, list[str]]) -> None:
    before = model.read_bytes()
    model.parent.chmod(0o555)
    try:
        for words in commands.values():
            refused(equimos(*words, "--model", model), "cannot write in", "Permission denied")
    finally:
        model.parent.chmod(0o755)
    assert model.read_bytes() == before
