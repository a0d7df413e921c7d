"""The command as processes: what only a real start, and a real kill, can show."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import continual

ROOT = Path(__file__).resolve().parents[3]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
EQUIMOS = (sys.executable, "-m", "continual")

Pictures = Callable[..., Path]


def finished(*words: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in words], capture_output=True, text=True, env=ENVIRONMENT, check=False)


def digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from continual.cli.app import app\n"
        "try: app(['--help'])\n"
        "except SystemExit as end: assert end.code == 0\n"
        "heavy = {'torch', 'timm', 'avalanche', 'numpy', 'matplotlib', 'pydantic'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "try: app(['equivariance', 'tune', '--help'])\n"  # typer itself may load pydantic for the options
        "except SystemExit as end: assert end.code == 0\n"
        "assert 'torch' not in sys.modules"
    )
    done = finished(sys.executable, "-c", code)
    assert done.returncode == 0, done.stderr
    assert "Usage: " in done.stdout


def test_what_needs_a_header_alone_loads_no_torch(model: Path) -> None:
    """And the names of the commands are those of `equimos`, however it is started."""
    commands = (
        ["info"],
        ["rename", "rose", "lily"],
        ["history"],
        ["rename", "lily", "rose"],
    )
    for words in (*commands, ["history", "--json", "-"], ["rename", "tulip", "iris"], ["rename", "gone", "lily"]):
        code = (
            "import sys; from continual.cli.app import main\n"
            "try: main()\n"
            "finally: assert not {'torch', 'numpy', 'timm'} & set(sys.modules), 'loaded'"
        )
        done = finished(sys.executable, "-c", code, *words, "--model", model)
        assert done.returncode == 2 * ("gone" in words), done.stderr
        assert "loaded" not in done.stderr, words
    assert continual.load(model).classes == ("rose", "iris")
    assert "Usage: equimos" in finished(*EQUIMOS, "rename", "--help").stdout


def test_a_mistake_is_one_line_and_exit_code_2(model: Path, flowers: Path) -> None:
    model.write_bytes(model.read_bytes()[:-1])
    done = finished(*EQUIMOS, "predict", "--model", model, flowers)
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {model} ")


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_while_training(tmp_path: Path, flowers: Path, model: Path, trained: Path, pictures: Pictures) -> None:
    """MOS with a hundred thousand epochs to go, killed in the middle of them."""
    import safetensors

    endless = tmp_path / "models" / "endless.safetensors"
    with safetensors.safe_open(model, framework="pt") as file:
        header = {key: value.replace('"epochs": 10,', '"epochs": 100000,') for key, value in file.metadata().items()}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no iterator
    safetensors.torch.save_file(tensors, endless, metadata=header)
    before = digest(endless)
    words: list[Any] = [*EQUIMOS, "learn", "--yes", "--images", pictures("more", ["iris"]), "--model", endless]
    with subprocess.Popen([str(w) for w in words], stderr=subprocess.PIPE, text=True, env=ENVIRONMENT) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("1 new class: iris"):
                break
        time.sleep(0.5)
        assert process.poll() is None
        process.kill()
    assert process.returncode == -signal.SIGKILL
    assert digest(endless) == before
    # The lock of the dead binds no one.
    left = sorted(p.name for p in endless.parent.iterdir() if p.suffix != ".lock")
    assert left == ["endless.safetensors", "model.safetensors"]
    assert continual.load(endless).classes == ("rose", "tulip")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_while_writing(model: Path, pictures: Pictures) -> None:
    """The process dies with half of the new model written."""
    before = digest(model)
    code = (
        "import os, signal, sys, safetensors.torch as st; from pathlib import Path\n"
        "whole = st.save_file\n"
        "def half(tensors, path, metadata):\n"
        "    whole(tensors, path, metadata)\n"
        "    os.truncate(path, Path(path).stat().st_size // 2)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "st.save_file = half\n"
        "from continual.cli.app import main; main()"
    )
    done = finished(
        sys.executable, "-c", code, "learn", "--yes", "--images", pictures("more", ["iris"]), "--model", model
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert digest(model) == before
    assert continual.load(model).classes == ("rose", "tulip")
