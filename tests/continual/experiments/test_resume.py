"""A run that is stopped anywhere and started again ends with the bits of one that was left alone."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from continual.errors import InputError, ModelFileError
from continual.experiments.config import RunConfig
from continual.experiments.run import run_config
from continual.learning import checkpoints
from tests.support.small_runs import results

REST = """
[settings]
epochs = 2
batch_size = 8
eval_batch_size = 5
alignment_epochs = 2
[methods.mos]
[methods.mos.variants]
consolidated = { consolidate = "mean" }
[methods.joint]
[methods.ridge]
"""


@pytest.fixture
def config(blob_run: Callable[..., RunConfig]) -> RunConfig:
    return blob_run(REST, classes=6)


class Stopped(BaseException):
    """Stands for the end of the process: nothing may catch it."""


def stop_after_writes(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let the process end after it has written so many checkpoints."""
    left, write = [count], checkpoints.write

    def writes(path: Path, value: Any) -> None:
        write(path, value)
        left[0] -= 1
        if left[0] == 0:
            raise Stopped

    monkeypatch.setattr(checkpoints, "write", writes)


@pytest.mark.parametrize("damage", [pytest.param(False, marks=pytest.mark.slow), True])
def test_stopped_after_every_checkpoint(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bool
) -> None:
    """Stopped at each checkpoint in turn; with `damage`, the newest file is often cut short as well."""
    run_config(config, tmp_path / "plain")
    expected, draw, stops = results(tmp_path / "plain"), random.Random(0), 0
    out = tmp_path / "out"
    while True:
        with monkeypatch.context() as patch:
            stop_after_writes(patch, 3 if damage else 1)
            try:
                run_config(config, out)
                break
            except Stopped:
                stops += 1
        if damage and draw.random() < 0.7:
            newest = max(out.glob("work/**/*.safetensors"), key=lambda p: p.stat().st_mtime_ns)
            newest.write_bytes(newest.read_bytes()[: draw.randrange(newest.stat().st_size)])
        assert stops < 60
    assert stops >= (10 if damage else 25)
    assert results(out) == expected
    assert {p.name for p in out.iterdir()} == {p.name for p in (tmp_path / "plain").iterdir()}


def test_a_cell_in_the_making_of_an_earlier_version_is_made_anew(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    less = config.model_copy(update={"methods": {"ridge": config.methods["ridge"]}})
    run_config(less, tmp_path / "plain")
    with monkeypatch.context() as patch:
        stop_after_writes(patch, 6)
        with pytest.raises(Stopped):
            run_config(less, tmp_path / "out")
    (evaluated, *_) = sorted((tmp_path / "out" / "work").glob("*/evaluated-*.safetensors"))
    checkpoints.write(evaluated, ([{"label": "ridge", "accuracy": [[1.0]], "answers": [[0]]}], {}))
    run_config(less, tmp_path / "out")
    assert results(tmp_path / "out") == results(tmp_path / "plain")


def test_a_full_disk_is_one_error_and_the_run_goes_on_later(
    config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after_writes(patch, 6)
        with pytest.raises(Stopped):
            run_config(config, tmp_path / "out")
    before = {p: p.read_bytes() for p in (tmp_path / "out").rglob("*.safetensors")}
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(ModelFileError, match="No space left on device. Free space"):
            run_config(config, tmp_path / "out")
    assert {p: p.read_bytes() for p in (tmp_path / "out").rglob("*.safetensors")} == before
    assert not list((tmp_path / "out").rglob("*.tmp"))
    run_config(config, tmp_path / "out")
    run_config(config, tmp_path / "plain")
    assert results(tmp_path / "out") == results(tmp_path / "plain")


def test_seeds_and_methods_may_be_added(config: RunConfig, tmp_path: Path) -> None:
    less = config.model_copy(update={"methods": {"ridge": config.methods["ridge"]}})
    run_config(less, tmp_path / "out")
    before = (tmp_path / "out" / "cells" / "ridge-1.json").read_bytes()
    more = less.model_copy(update={"seeds": [1, 2], "methods": {k: config.methods[k] for k in ("joint", "ridge")}})
    run_config(more, tmp_path / "out", only=["ridge"])
    assert (tmp_path / "out" / "cells" / "ridge-1.json").read_bytes() == before
    assert (tmp_path / "out" / "cells" / "ridge-2.json").is_file()
    assert json.loads((tmp_path / "out" / "run.json").read_text())["config"]["seeds"] == [1, 2]
    with pytest.raises(InputError, match="seeds is .1, 2. there, .1. now"):
        run_config(less, tmp_path / "out")


def test_images_that_changed_are_noticed(config: RunConfig, tmp_path: Path) -> None:
    less = config.model_copy(update={"methods": {"ridge": config.methods["ridge"]}})
    run_config(less, tmp_path / "out")
    Image.new("RGB", (16, 16)).save(tmp_path / "train" / "class0" / "0.png")
    with pytest.raises(InputError, match=r"the images have changed since .* \(seed 1\)"):
        run_config(less, tmp_path / "out")


def test_a_record_says_what_is_needed_to_do_it_again(config: RunConfig, tmp_path: Path) -> None:
    less = config.model_copy(update={"methods": {"ridge": config.methods["ridge"]}})
    run_config(less, tmp_path / "out")
    record = json.loads((tmp_path / "out" / "records" / "ridge-1.json").read_text())
    run = json.loads((tmp_path / "out" / "run.json").read_text())
    assert sorted(record["class_order"]) == [f"class{n}" for n in range(6)]
    assert record["data"] == run["data"]["1"]
    assert len(record["model"]) == len(record["backbone"]["sha256"]) == 64
    here = record["circumstances"]
    assert here["versions"]["torch"]
    assert here["peak_memory"]["process"] > 2**20
    assert here["device"]["name"] == "cpu"
    assert set(here["git"] or ()) in ({"commit", "changed_files"}, set())
    assert run["config"]["methods"]["ridge"]["method"] == "ridge"
