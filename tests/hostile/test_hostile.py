"""The corpus is run: a part of it every time, all of it when slow tests are asked for."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
import torch

import continual
from continual.backbones.loading import load_backbone
from continual.lifecycle import versions
from tests.continual.conftest import write_pictures, write_weights
from tests.hostile import corpus
from tests.hostile.corpus import MEMORY, Hostile, Materials, all_kinds, attempt, run
from tests.hostile.watch import watched

#: cases of each kind: in every run, and when slow tests are asked for
FEW, MANY = 12, 450
SMALL = {"mos": {"epochs": 1, "alignment_epochs": 1}, "simple_cil": {}, "strata": {}, "ease": {"epochs": 1}}


@pytest.fixture(scope="module")
def materials(tmp_path_factory: pytest.TempPathFactory) -> Materials:
    folder = tmp_path_factory.mktemp("sound")
    torch.set_num_threads(1)
    weights = write_weights(folder / "weights.safetensors", seed=0)
    images = write_pictures(folder / "images", ["rose", "tulip"])
    write_pictures(folder / "more", ["iris"])
    backbone = load_backbone(weights=weights)
    for name, settings in SMALL.items():
        learner = continual.methods.method(name)(backbone, **settings)
        learner.learn(images)
        versions.save(learner, folder / f"{name}.safetensors", "learned", embed_backbone=name != "strata")
    return Materials([folder / f"{name}.safetensors" for name in SMALL], weights, images)


@pytest.mark.parametrize("kind", all_kinds())
def test_a_part_of_the_corpus(kind: str, materials: Materials, tmp_path: Path) -> None:
    assert run(kind, materials, tmp_path, FEW).problems == []


@pytest.mark.slow
def test_all_of_the_corpus(materials: Materials, tmp_path: Path) -> None:
    """The figures are printed; EQUIMOS_SEED says which cases."""
    start, found = time.monotonic(), {}
    for kind in all_kinds():
        found[kind] = run(kind, materials, tmp_path, MANY, int(os.environ.get("EQUIMOS_SEED", "0")))
        row = found[kind]
        print(
            f"{kind}: {row.cases} cases, {row.tries} commands or requests, the longest took {row.longest:.1f} s, "
            f"{row.memory:.0f} MiB more, {len(row.problems)} problems; {time.monotonic() - start:.0f} s so far"
        )
    assert [problem for row in found.values() for problem in row.problems] == []
    assert sum(row.cases for row in found.values()) >= 2000
    assert sum(row.memory for row in found.values()) <= MEMORY


def test_the_watch_sees_what_is_done_outside(tmp_path: Path) -> None:
    import socket

    inside = tmp_path / "inside"
    inside.mkdir()
    with watched(inside) as deeds:
        (inside / "a").write_text("")
        (tmp_path / "b").write_text("")
        with pytest.raises(OSError, match="refused"):
            socket.create_connection(("127.0.0.1", 9), 1)
    assert len(deeds) == 2
    assert "'" + str(tmp_path / "b") in deeds[0]


def test_an_attempt_reports_what_it_must(tmp_path: Path) -> None:
    found = attempt(Hostile("taken", lambda _: [["--version"]], refused=True), tmp_path)
    assert found == ["taken: --version: was taken"]
    assert attempt(Hostile("refused", lambda _: [["info", "--model", "gone"]], refused=True), tmp_path) == []


def test_what_waits_for_ever_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "WAIT", 0.2)
    with pytest.raises(TimeoutError, match="hung"):
        attempt(Hostile("waits", lambda _: [lambda: time.sleep(5)]), tmp_path)
