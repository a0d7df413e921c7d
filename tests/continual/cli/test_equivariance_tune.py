"""`equimos equivariance tune` on tiny studies: rows, resuming, files, and every config that is shipped."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from continual.experiments.equivariance.config import load_study, wrapper_names
from equivariant.tuning import run
from tests.conftest import ROOT
from tests.continual.conftest import ARGUMENTS, NAME
from tests.support.refusals import refused
from tests.support.small_studies import write_folders, write_study

Equimos = Callable[..., Any]
CONFIGS = sorted((ROOT / "configs" / "equivariance").glob("*.toml"))


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_folders(tmp_path_factory.mktemp("study"))


@pytest.fixture
def study(tmp_path: Path, folders: Path, weights: Path) -> Path:
    return write_study(tmp_path / "tiny.toml", folders, weights)


@pytest.fixture
def tune(equimos: Equimos) -> Equimos:
    return lambda *words: equimos("equivariance", "tune", *words)


def rows_of(out: Path) -> dict[str, Any]:
    return {row["label"]: row for row in json.loads((out / "results.json").read_text())["rows"]}


def test_a_study_from_beginning_to_check(tune: Equimos, equimos: Equimos, study: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = tune(study, "--out", out)
    assert done.exit_code == 0, done.output
    assert {"study.json", "results.json", "results.csv", "results.md", "results.png"} <= {p.name for p in out.iterdir()}
    rows = rows_of(out)
    assert list(rows) == ["plain", "max", "equizero", "lambda", "pruned, k=1", "all of it"]
    for label, row in rows.items():
        found = row["measures"]
        assert all(label in text for text in (done.stdout, (out / "results.md").read_text(encoding="utf-8")))
        assert found["turned"] == pytest.approx(sum(found["by_element"].values()) / 4)
        if label != "plain":
            assert found["consistency"] == 1
            assert found["upright"] == found["turned"]
            assert found["flips"] == 0
    assert sum(rows["lambda"]["measures"]["weights"].values()) == pytest.approx(1)
    with (out / "results.csv").open(newline="") as file:
        table = list(csv.DictReader(file))
    assert [line["row"] for line in table] == list(rows)
    assert float(table[0]["accuracy r90"]) == rows["plain"]["measures"]["by_element"]["r90"]

    # The tuned models stand for themselves: checked and evaluated without the config.
    for label, wrapper in (("lambda", "lambda"), ("pruned__k_1", "pruned"), ("all_of_it", "equitune")):
        model = out / "models" / f"{label}-0" / "model.safetensors"
        checked = equimos("equivariance", "check", model, "--json", "-")
        assert checked.exit_code == 0, (wrapper, checked.output)
        assert json.loads(checked.stdout)["group"] == "C4"
        assert (model.parent / "course.png").stat().st_size > 0
    test = json.loads((out / "study.json").read_text())["config"]["data"]["test"]
    again = equimos("equivariance", "evaluate", model, "--images", test, "--json", "-")
    assert json.loads(again.stdout)["rows"][0]["measures"] == rows["all of it"]["measures"]
    assert equimos("equivariance", "check", model, "--group", "D4").exit_code == 1
    weighed = out / "models" / "lambda-0" / "model.safetensors"
    other = json.loads(equimos("equivariance", "evaluate", weighed, "-i", test, "-g", "D4", "--json", "-").stdout)
    assert other["group"] == "D4"
    assert len(other["rows"][0]["measures"]["by_element"]) == 8
    refused(equimos("equivariance", "check", model, "--wrapper", "max"), "its own wrapper")
    refused(equimos("equivariance", "check", model.with_name("checkpoint.safetensors")), "tuning under way")
    tampered(model)
    refused(equimos("equivariance", "check", model), "cannot be loaded", "saved for the group C4")


def tampered(model: Path) -> None:
    """Let a file say that it is of another group than its tensors."""
    with safetensors.safe_open(model, framework="pt") as file:
        header = {k: v.replace('"group": "C4"', '"group": "D4"') for k, v in file.metadata().items()}
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no iterator
    safetensors.torch.save_file(tensors, model, metadata=header)


def test_an_interrupted_study_goes_on(
    tune: Equimos, study: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("rows={plain = {}, lambda = {recipe = 'quick'}}", "seeds=[3]")
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert tune(study, *words, "--out", whole).exit_code == 0
    kept: list[int] = []

    def stop(run: Any, optimizer: Any) -> None:
        save(run, optimizer)
        kept.append(run.step)
        raise KeyboardInterrupt

    save = run.Run._save
    monkeypatch.setattr(run.Run, "_save", stop)
    halted = tune(study, *words, "--out", parts)
    assert halted.exit_code == 130
    assert halted.stderr.splitlines()[-1] == "interrupted: the same command resumes it"
    assert kept == [2]
    monkeypatch.setattr(run.Run, "_save", save)
    done = tune(study, *words, "--out", parts)
    assert done.exit_code == 0, done.output
    assert rows_of(parts) == rows_of(whole)
    models = [folder / "models" / "lambda-3" / "model.safetensors" for folder in (whole, parts)]
    tensors = [safetensors.torch.load_file(model) for model in models]
    assert all(torch.equal(tensor, tensors[1][name]) for name, tensor in tensors[0].items())
    monkeypatch.setattr("continual.experiments.equivariance.study._Study", None)  # nothing is left to run
    assert tune(study, *words, "--out", parts).exit_code == 0


def test_a_folder_keeps_to_its_study(tune: Equimos, study: Path, tmp_path: Path) -> None:
    words = ("rows={plain = {}}", "--out", tmp_path / "out")
    assert tune(study, *words).exit_code == 0
    refused_late(tune(study, "group=D4", *words), "group is 'C4' there", "another --out")
    refused_late(tune(study, "seeds=[5]", *words), "another seeds")
    refused_late(tune(study, "rows={plain = {chunk = 1}}", *words[1:]), "another rows")
    refused_late(tune(study, "rows={plain = {}, max = {}}", *words[1:]), "another rows")
    record = tmp_path / "out" / "study.json"
    older = json.loads(record.read_text())
    older["config"]["rows"]["plain"] |= {"proxy": "entropy", "keep": 1}  # a row once had the options of all wrappers
    record.write_text(json.dumps(older))
    assert tune(study, *words).exit_code == 0
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    refused_late(tune(study, "--out", tmp_path / "full"), "not empty")


def refused_late(result: Any, *words: str) -> None:
    """As `refused`, after the remark on what will be run."""
    assert result.exit_code == 2
    assert result.stdout == ""
    line = result.stderr.splitlines()[-1]
    assert line.startswith("error: ")
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (["titel=x"], ["unknown key 'titel': did you mean 'title'"]),
        (["rows.lambda.recip=x"], ["unknown key 'rows.lambda.recip': did you mean 'recipe'"]),
        (["recipes.quick.patienc=3"], ["did you mean 'patience'"]),
        (["recipes.quick.stages=[{train='head', step=3}]"], ["did you mean 'steps'"]),
        (["model.nam=x", "data.validation=2"], ["did you mean 'name'", "data.validation"]),
        (["rows.lambda.recipe=qick"], ["rows.lambda.recipe = 'qick'", "did you mean 'quick'"]),
        (["rows.x.wrapper=lamda"], ["unknown wrapper 'lamda'", "did you mean 'lambda'"]),
        (["rows.plain.keep=2"], ["keep is an option of 'pruned', not of 'plain'"]),
        (["rows.plain.recipe=quick"], ["nothing to train in stage 'weights'"]),
        (["group=flip"], ["mirror_h", "mirror_v"]),
        (["group=C44x"], ["unknown group 'C44x'"]),
        (["data.train=nowhere"], ["nowhere"]),
        (["model.weights=nowhere.safetensors"], ["no weights file at nowhere.safetensors"]),
        (["model.head=own"], ["gives features", "head"]),
        (["model.templates=['a photo']"], ["'a photo' has no {}"]),
        (["model.preprocessing={crop=1}"], ["did you mean 'crop_pct'"]),
        (["device=gpu"], ["no device 'gpu'"]),
    ],
)
def test_a_wrong_study_is_refused_with_the_cure(
    tune: Equimos, study: Path, changes: Sequence[str], said: Sequence[str]
) -> None:
    refused(tune(study, *changes, "--dry-run"), *said)


def test_two_classes_get_a_score_each(tune: Equimos, study: Path, tmp_path: Path) -> None:
    done = tune(study, "data.classes=2", "rows={plain = {}}", "--out", tmp_path / "out")
    assert done.exit_code == 0, done.output
    assert rows_of(tmp_path / "out")["plain"]["measures"]["upright"] == 1, "the colours tell the classes apart"


TINY = {
    "vit": [f"model.args={{{', '.join(f'{k} = {v}' for k, v in ARGUMENTS.items())}}}", f"model.name={NAME}"],
    "cnn": ["model.name=torchvision/resnet18", "model.size=32"],
}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda p: p.stem)
def test_every_config_is_a_study_that_can_be_run(
    path: Path, tune: Equimos, folders: Path, weights: Path, request: pytest.FixtureRequest
) -> None:
    config, changes = load_study(path), TINY.get(path.stem.partition("_")[2], [])
    if path.stem.endswith("clip"):
        pytest.importorskip("open_clip")
        changes = [f"model.name=clip/{request.getfixturevalue('tiny_clip')}"]
    if path.stem == "folder":
        changes = [
            f"data.train={folders}/train",
            f"data.test={folders}/test",
            f"model.weights={weights}",
            "model.args={}",
        ]
    done = tune(path, *changes, "--dry-run")
    assert done.exit_code == 0, done.output
    assert all(label in done.stdout for label in config.rows)
    text = path.read_text(encoding="utf-8")
    assert f"equimos equivariance tune configs/equivariance/{path.name}" in text
    assert {row.wrapper for row in config.rows.values()} <= set(wrapper_names())
