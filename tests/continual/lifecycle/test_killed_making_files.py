"""SIGKILL of commands that make a new file of others: it is whole or not there, and the others are as they were."""

from __future__ import annotations

import os
import random
import signal
import time
from pathlib import Path

import pytest

import continual
from continual import SimpleCILLearner
from continual.backbones.loading import load_backbone
from continual.learning import model_file
from tests.continual.conftest import write_pictures, write_weights
from tests.continual.lifecycle.test_crashes import _content, _forked, _same
from tests.support.served import BACKBONE, learner_of, taught


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[str]]:
    """The commands but for their output."""
    folder = tmp_path_factory.mktemp("sound")
    learner_of([0, 1], [2]).save(folder / "mos.safetensors", embed_backbone=True)
    for name, classes in {"a": [0, 1], "b": [2, 3]}.items():
        taught(SimpleCILLearner(BACKBONE), classes).save(folder / f"{name}.safetensors", embed_backbone=True)
        learner_of(classes).save(folder / f"mos-{name}.safetensors", embed_backbone=True)
    images = write_pictures(folder / "images", [f"thing {number}" for number in range(20)], 1)
    old, new = write_weights(folder / "old.weights", 0), write_weights(folder / "new.weights", 1)
    taught(SimpleCILLearner(load_backbone(weights=old)), [0, 1]).save(folder / "p.safetensors")
    port = ["--to-weights", str(new), "--images", str(images)]
    return {
        "consolidate": ["consolidate", "--yes", "--device", "cpu", "--model", str(folder / "mos.safetensors")],
        "merge": ["merge", "--device", "cpu", str(folder / "a.safetensors"), str(folder / "b.safetensors")],
        "merge of adapters": [
            *("merge", "--device", "cpu", "--images", str(images)),
            *(str(folder / f"mos-{name}.safetensors") for name in "ab"),
        ],
        "port": ["port", "--yes", "--device", "cpu", "--model", str(folder / "p.safetensors"), *port],
    }


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize(
    "name",
    ["merge", *(pytest.param(name, marks=pytest.mark.slow) for name in ("consolidate", "merge of adapters", "port"))],
)
def test_killed_at_random_moments(sound: dict[str, list[str]], tmp_path: Path, name: str) -> None:
    """EQUIMOS_KILLS says how many times, of all commands together."""
    words, draw = sound[name], random.Random(name)
    inputs = [Path(word) for word in words if word.endswith(".safetensors")]
    before = [path.read_bytes() for path in inputs]

    def start(place: Path) -> tuple[int, Path]:
        place.mkdir()
        return _forked([*words, "--out", str(place / "new.safetensors")]), place / "new.safetensors"

    started = time.monotonic()
    child, whole = start(tmp_path / "whole")
    assert os.waitpid(child, 0)[1] == 0
    duration, new = time.monotonic() - started, _content(whole)
    kills = 0
    for number in range(1000):
        child, out = start(tmp_path / str(number))
        time.sleep(duration * draw.uniform(0.8 if number % 2 else 0.0, 1.1))
        os.kill(child, signal.SIGKILL)
        status = os.waitpid(child, 0)[1]
        assert status in (0, signal.SIGKILL)
        kills += status == signal.SIGKILL
        if status == 0:
            duration *= 0.9
        if out.exists():
            assert _same(_content(out), new)
            continual.load(out)
        else:  # what the kill has left behind is in nobody's way
            assert status == signal.SIGKILL
            assert os.waitpid(_forked([*words, "--out", str(out)]), 0)[1] == 0
            assert model_file.read(out)[1]["state"] == model_file.read(whole)[1]["state"]
        if kills >= int(os.environ.get("EQUIMOS_KILLS", "12")) / 3:
            break
    assert kills
    assert [path.read_bytes() for path in inputs] == before
