"""SIGKILL at random moments of a run of the real command: what is started again ends the same, bit for bit."""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.small_runs import config_text, results

ROOT = Path(__file__).resolve().parents[3]
KILLS = 12
REST = """
[backbone]
name = "vit_tiny_patch16_224"
args = { img_size = 16, patch_size = 8, embed_dim = 64, depth = 4, num_heads = 2 }
[backbone.pretrain]
epochs = 30
[settings]
epochs = 25
batch_size = 8
alignment_epochs = 10
[methods.finetune]
[methods.mos]
[methods.mos.variants]
consolidated = { consolidate = "mean" }
[methods.joint]
[methods.ranpac]
projection = 200
"""


def start(folder: Path, out: str) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "continual", "run", "c.toml", "--out", out]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        words, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )


def kept(out: Path) -> set[tuple[str, int]]:
    """Return what a run has written so far."""
    found = set()
    for path in [*out.glob("work/**/*.safetensors"), *out.glob("cells/*.json")]:
        with contextlib.suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_mtime_ns))
    return found


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="needs SIGKILL")
def test_killed_at_random_moments(tmp_path: Path, pictures: Callable[..., Path]) -> None:
    pictures("train", [f"class{n}" for n in range(6)], 12)
    pictures("test", [f"class{n}" for n in range(6)], 6)
    (tmp_path / "c.toml").write_text(config_text(REST, seeds=[1, 2]))
    plain = start(tmp_path, "plain")
    _, said = plain.communicate()
    assert plain.returncode == 0, said

    draw, kills = random.Random(1993), 0
    while True:
        before = kept(tmp_path / "out")
        process = start(tmp_path, "out")
        if kills == KILLS:
            break
        while kept(tmp_path / "out") == before and process.poll() is None:
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 0.5))
        assert process.poll() is None, "it ended before it was killed often enough: give it more to do"
        process.kill()
        process.communicate()
        kills += 1
    _, said = process.communicate()
    assert process.returncode == 0, said
    assert results(tmp_path / "out") == results(tmp_path / "plain")
    assert json.loads((tmp_path / "out" / "run.json").read_text())["data"]
    pictured = [(tmp_path / name / "accuracy.png").read_bytes() for name in ("out", "plain")]
    assert pictured[0] == pictured[1]
