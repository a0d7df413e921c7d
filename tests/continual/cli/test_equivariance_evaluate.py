"""`equimos equivariance evaluate`, CLIP zero-shot, and what both refuse."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from tests.continual.conftest import write_pictures
from tests.support.refusals import refused

Equimos = Callable[..., Any]


@pytest.fixture
def evaluate(equimos: Equimos) -> Equimos:
    return lambda *words: equimos("equivariance", "evaluate", *words, "--device", "cpu")


@pytest.fixture(scope="module")
def garden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pictures(tmp_path_factory.mktemp("images") / "garden", ["iris", "rose", "tulip"], 4)


def test_wrappers_beside_one_another(evaluate: Equimos, weights: Path, garden: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "out"
    words: list[Any] = ["--images", garden, "--fit", garden, "--group", "D4", "--out", out, "--csv", tmp_path / "t.csv"]
    wrappers = ("plain", "equizero,proxy=similarity", "canonicaliser")
    done = evaluate(weights, *words, *[word for name in wrappers for word in ("--wrapper", name)])
    assert done.exit_code == 0, done.output
    assert {p.name for p in out.iterdir()} == {"results.json", "results.csv", "results.md", "results.png"}
    rows = json.loads((out / "results.json").read_text())["rows"]
    assert [row["label"] for row in rows] == list(wrappers)
    assert rows[0]["measures"]["upright"] == 1, "the head was fitted to these images"
    for row in rows[1:]:
        assert len(set(row["measures"]["by_element"].values())) == 1
        assert row["measures"]["consistency"] == 1
    table = list(csv.DictReader(io.StringIO((tmp_path / "t.csv").read_text())))
    assert [line["row"] for line in table] == [row["label"] for row in rows]
    assert "12 images of" in done.stdout


def test_a_learner_s_classes_are_found_by_name(evaluate: Equimos, trained: Path, flowers: Path) -> None:
    done = evaluate(trained, "--images", flowers, "--wrapper", "plain", "--json", "-")
    (row,) = json.loads(done.stdout)["rows"]
    assert row["measures"]["upright"] == 1
    more = evaluate(trained, "--images", flowers, "--per-class", 1)
    assert "on 2 images" in more.stdout


def test_what_evaluate_refuses(
    evaluate: Equimos, weights: Path, trained: Path, garden: Path, flowers: Path, tmp_path: Path
) -> None:
    refused(evaluate(weights, "-i", tmp_path / "none"), "none")
    refused(evaluate(weights, "-i", garden), "gives features", "fit a head")
    refused(evaluate(trained, "-i", garden), "scores 2 classes", "'iris'")
    refused(evaluate(weights, "-i", garden, "--fit", flowers), "scores 2 classes", "'iris'")
    refused(evaluate(weights, "-i", garden, "--group", "mirror"), "mirror_h", "mirror_v")
    refused(evaluate(weights, "-i", garden, "--json", "-", "--csv", "-"), "standard output")
    refused(evaluate(weights, "-i", garden, "--json", tmp_path / "no" / "x.json"), "no folder")
    refused(evaluate("clip/ViT-B-32.openai", "-i", garden, "--template", "a photo"), "'a photo' has no {}")


# CLIP


def test_clip_zero_shot_in_every_wrapper(
    evaluate: Equimos, equimos: Equimos, tiny_clip: str, garden: Path, tmp_path: Path
) -> None:
    open_clip = pytest.importorskip("open_clip")
    file = tmp_path / "clip.safetensors"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        safetensors.torch.save_file(open_clip.create_model(tiny_clip).state_dict(), file)
    words: list[Any] = [f"clip/{tiny_clip}", "--weights", file, "--images", garden]
    wrappers = ("plain", "equitune", "lambda", "equizero,proxy=similarity", "canonicaliser", "max")
    done = evaluate(*words, *[word for name in wrappers for word in ("--wrapper", name)], "--json", "-")
    assert done.exit_code == 0, done.output
    measures = {row["label"]: row["measures"] for row in json.loads(done.stdout)["rows"]}
    assert all(measures[name]["consistency"] == 1 for name in wrappers if name != "plain")
    checked = equimos("equivariance", "check", *words[:3], "--wrapper", "equitune", "--images", garden)
    assert checked.exit_code == 0, checked.output
    refused(evaluate(*words, "--wrapper", "pruned"), "StagedPair")
    (tmp_path / "other.safetensors").write_bytes(b"no")
    refused(
        evaluate(f"clip/{tiny_clip}", "--weights", tmp_path / "other.safetensors", "-i", garden), "could not be made"
    )


def test_without_open_clip_the_extra_is_named(evaluate: Equimos, garden: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "open_clip", None)
    refused(evaluate("clip/ViT-B-32.openai", "--images", garden), 'pip install "equimos[clip]"')


@pytest.mark.shared
def test_a_real_network_is_checked(equimos: Equimos, shared: Path) -> None:
    words = (shared / "weights" / "vit_small_patch14_dinov2_depth11_fp16.safetensors", "--model-arg", "img_size=56")
    words += ("--images", shared / "data" / "cifar10_small" / "test", "--number", 2)
    assert equimos("equivariance", "check", *words).exit_code == 1
    done = equimos("equivariance", "check", *words, "--wrapper", "lambda")
    assert done.exit_code == 0, done.output
