"""Versions of a model file and the commands that edit it: what is said, what is kept, and what a crash leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import continual
from continual import files
from continual.errors import ModelFileError
from continual.learning import model_file
from continual.lifecycle import contents, versions
from continual.lifecycle.seen_images import SeenImages
from tests.conftest import ROOT
from tests.support.kills import die_before
from tests.support.refusals import refused

Equimos = Callable[..., Any]
Pictures = Callable[..., Path]


def done(result: Any) -> str:
    assert result.exit_code == 0, result.stderr
    return str(result.stdout)


def classes(path: Path) -> tuple[str, ...]:
    return tuple(model_file.read(path)[1]["state"]["classes"])


def test_edits_make_versions_and_rollback_goes_both_ways(equimos: Equimos, model: Path, pictures: Pictures) -> None:
    first = model.read_bytes()
    done(equimos("learn", "--yes", "-i", pictures("more", ["iris"]), "-m", model))
    assert "renamed iris to lily; 3 classes" in done(equimos("rename", "iris", "lily", "-m", model))
    forgetting = equimos("forget", "rose", "-m", model)
    assert "forgot rose; 2 classes" in done(forgetting)
    assert "earlier versions still know rose" in forgetting.stderr
    assert continual.load(model).classes == ("tulip", "lily")

    listed = json.loads(done(equimos("history", "-m", model, "--json", "-")))
    assert [(row["version"], row["current"], row["event"], len(row["classes"])) for row in listed] == [
        (1, False, "learned rose, tulip", 2),
        (2, False, "learned iris", 3),
        (3, False, "renamed iris to lily", 3),
        (4, True, "forgot rose", 2),
    ]
    assert done(equimos("history", "-m", model)).splitlines()[-1].endswith("in use")

    assert "version 3" in done(equimos("rollback", "-m", model))
    assert classes(model) == ("rose", "tulip", "lily")
    assert "version 1" in done(equimos("rollback", "-m", model, 1))
    assert model.read_bytes() == first
    assert [version.current for version in versions.versions(model)] == [True, False, False, False]
    refused(equimos("rollback", "-m", model), "version 1", "no earlier version", "2, 3, 4")
    refused(equimos("rollback", "-m", model, 9), "no other version 9")
    assert "version 4" in done(equimos("rollback", "-m", model, 4))
    done(equimos("rename", "lily", "iris", "-m", model))
    assert [version.number for version in versions.versions(model) if version.current] == [5]


def test_a_renamed_file_is_what_a_renamed_learner_saves(
    equimos: Equimos, model: Path, pictures: Pictures, tmp_path: Path
) -> None:
    """But for the date: the command copies tensors unread, and changes the header alone."""
    done(equimos("learn", "--yes", "-i", pictures("more", ["iris"]), "-m", model))
    done(equimos("forget", "iris", "-m", model))
    before, learner = contents.read(model), continual.load(model)
    done(equimos("rename", "rose", "iris", "-m", model))
    learner.rename("rose", "iris")
    own = [replace(image, label="iris" if image.label == "rose" else image.label) for image in before.seen.images]
    other = tmp_path / "other.safetensors"
    versions.save(learner, other, "renamed rose to iris", embed_backbone=False, seen=SeenImages(tuple(own)))
    (tensors, header), (expected, asked) = (model_file.read(path) for path in (model, other))
    assert tensors.keys() == expected.keys()
    assert all(torch.equal(tensors[name], expected[name]) for name in tensors)
    for values in (header, asked):
        values["notes"]["date"] = ""
    assert header == asked
    assert contents.read(model).seen == SeenImages(tuple(own)), "iris is not a forgotten class any more"


@pytest.mark.parametrize("number", ["v1", "v2"])
def test_files_of_earlier_formats_are_renamed_in_theirs(equimos: Equimos, tmp_path: Path, number: str) -> None:
    for old in sorted((ROOT / "tests" / "support" / "model_files" / number).glob("*.safetensors")):
        path = Path(shutil.copy(old, tmp_path))
        before = files.fetch(path)
        done(equimos("rename", 0, 77, "-m", path))
        after = files.fetch(path)
        assert all(torch.equal(before[0][name], after[0][name]) for name in before[0])
        assert after[1]["version"] == before[1]["version"]
        assert contents.read(path).classes[0] == 77
        refused(equimos("rename", 77, "x", "-m", path), "'x' is str, but the classes are int")


def test_forgetting_everywhere_leaves_no_version_that_knows(equimos: Equimos, model: Path, pictures: Pictures) -> None:
    done(equimos("learn", "--yes", "-i", pictures("more", ["iris"]), "-m", model))
    assert "1 earlier version that knew iris deleted" in done(equimos("forget", "iris", "--everywhere", "-m", model))
    assert all("iris" not in classes(version.path) for version in versions.versions(model))
    assert [version.number for version in versions.versions(model)] == [1, 2]


def test_a_class_forgotten_before_can_still_go_everywhere(equimos: Equimos, model: Path, pictures: Pictures) -> None:
    done(equimos("learn", "--yes", "-i", pictures("more", ["iris"]), "-m", model))
    done(equimos("forget", "iris", "-m", model))
    assert "1 earlier version that knew iris deleted" in done(equimos("forget", "iris", "--everywhere", "-m", model))
    assert all("iris" not in classes(version.path) for version in versions.versions(model))
    assert contents.read(model).seen.forgotten == ()
    refused(equimos("forget", "iris", "--everywhere", "-m", model), "no class 'iris'")


def test_a_renamed_class_goes_everywhere_under_all_its_names(equimos: Equimos, model: Path, pictures: Pictures) -> None:
    done(equimos("learn", "--yes", "-i", pictures("more", ["iris"]), "-m", model))
    done(equimos("rename", "iris", "lily", "-m", model))
    before = model.read_bytes()
    refused(equimos("forget", "iris", "--everywhere", "-m", model), "'iris' is called 'lily' now: forget that")
    assert model.read_bytes() == before
    assert "2 earlier versions that knew lily deleted" in done(equimos("forget", "lily", "--everywhere", "-m", model))
    assert [classes(version.path) for version in versions.versions(model)] == [("rose", "tulip")] * 2


def test_corrections_say_what_they_changed(equimos: Equimos, model: Path, pictures: Pictures) -> None:
    """A third colour is taken for one of the two flowers; it is said to be the other."""
    iris = pictures("odd", ["iris"]) / "iris"
    taken = continual.load(model).predict(iris.parent).labels[0]
    truth = {"rose": "tulip", "tulip": "rose"}[taken]
    said = done(equimos("correct", iris, "--class", truth, "-m", model))
    assert f"of 4 images answered {truth} now" in said
    assert continual.load(model).state.statistics[("rose", "tulip").index(truth)].count == 8


def test_settings_of_a_correction_are_its_own(equimos: Equimos, model: Path, pictures: Pictures) -> None:
    """Learned in another precision, to be kept with other numbers; the model answers in its own as before."""
    iris, number = pictures("odd", ["iris"]) / "iris", ("rose", "tulip").index("tulip")
    settings, means = continual.load(model).settings, []
    for more in ((), ("--set", "precision=bfloat16", "--set", "eval_batch_size=2")):
        done(equimos("correct", iris, "--class", "tulip", "-m", model, *more))
        assert continual.load(model).settings == settings
        means.append(continual.load(model).state.statistics[number].mean)
        done(equimos("rollback", "-m", model, 1))
    assert not torch.equal(*means)
    torch.testing.assert_close(*means, rtol=0.1, atol=0.1)
    refused(equimos("correct", iris, "--class", "tulip", "-m", model, "--set", "epochs=3"), "--set epochs")


def test_mistakes_change_nothing(equimos: Equimos, model: Path, flowers: Path) -> None:
    before = model.read_bytes()
    refused(equimos("forget", "roze", "-m", model), "'roze'", "did you mean 'rose'")
    refused(equimos("rename", "rose", "tulip", "-m", model), "'tulip'", "already")
    refused(equimos("correct", flowers / "rose", "--class", "tulpi", "-m", model), "did you mean 'tulip'")
    refused(equimos("history", "-m", model.with_name("gone")), "no model file")
    refused(equimos("rollback", "-m", model), "no earlier version")
    assert model.read_bytes() == before
    assert list(model.parent.iterdir()) == [model]


def test_the_last_ten_are_kept(model: Path) -> None:
    learner = continual.load(model)
    for number in range(12):
        versions.save(learner, model, f"event {number}", embed_backbone=False)
    assert [v.number for v in versions.versions(model)] == [*range(3, 14)]


@pytest.mark.parametrize("failing", ["link", "replace"])
def test_a_failure_while_versions_change_places(model: Path, monkeypatch: pytest.MonkeyPatch, failing: str) -> None:
    """Without links there are copies; where nothing can be written, the old version stays in use."""
    before, learner = model.read_bytes(), continual.load(model)

    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(*((os, "link", fail) if failing == "link" else (Path, "replace", fail)))
    if failing == "link":
        versions.save(learner, model, "again", embed_backbone=False)
        assert versions.versions(model)[0].path.read_bytes() == before
    else:
        with pytest.raises(ModelFileError, match=f"cannot write {model}.*No space left"):
            versions.save(learner, model, "again", embed_backbone=False)
        monkeypatch.undo()
        assert model.read_bytes() == before
        assert list(model.parent.iterdir()) == [model]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")
@pytest.mark.parametrize("action", ["save", pytest.param("rollback", marks=pytest.mark.slow)])
def test_killed_at_every_step(model: Path, action: str) -> None:
    """The process kills itself before its n-th step in the folder, for every n: old or new, never anything else."""
    learner = continual.load(model)
    learner.forget("rose")
    if action == "rollback":
        versions.save(learner, model, "forgot rose", embed_backbone=False)
    old = classes(model)
    new = ("rose", "tulip") if action == "rollback" else ("tulip",)
    for step in range(1, 100):
        child = os.fork()
        if child == 0:
            die_before(step, str(model.parent))
            if action == "save":
                versions.save(learner, model, "forgot rose", embed_backbone=False)
            else:
                versions.rollback(model, 1)
            os._exit(0)
        status = os.waitpid(child, 0)[1]
        assert status in (0, signal.SIGKILL)
        assert classes(model) in (old, new)
        assert {classes(version.path) for version in versions.versions(model)} <= {old, new}
        if status == 0:
            break
    assert 5 < step < 99
    assert classes(model) == new
    assert not list(model.parent.glob(".*"))


def test_a_damaged_version_is_named_and_stops_nothing(equimos: Equimos, model: Path, pictures: Pictures) -> None:
    done(equimos("learn", "--yes", "-i", pictures("more", ["iris"]), "-m", model))
    done(equimos("rename", "iris", "lily", "-m", model))
    (_, second, _) = (version.path for version in versions.versions(model))
    second.write_bytes(second.read_bytes()[:100])
    (second.parent / "9.safetensors").mkdir()
    listed = equimos("history", "-m", model, "--json", "-")
    assert [row["version"] for row in json.loads(done(listed))] == [1, 10]
    assert "version 2 is left out" in listed.stderr
    assert "version 9 is left out" in listed.stderr
    result = equimos("forget", "rose", "--everywhere", "-m", model)
    assert "1 earlier version that knew rose deleted" not in done(result).replace("2 earlier", "")
    assert f"{second} is damaged, and may know rose: delete it" in result.stderr
    assert all("rose" not in classes(v.path) for v in versions.versions(model) if v.path.is_file() and v.path != second)
    refused(equimos("rollback", "-m", model, 2), "2.safetensors")


@pytest.mark.parametrize("how", ["nan", "shape"])
def test_rollback_asks_a_version_before_it_is_used(equimos: Equimos, model: Path, how: str) -> None:
    """Its header is sound, and its bytes are whole; what it holds is not."""
    done(equimos("rename", "rose", "lily", "-m", model))
    first, now = versions.versions(model)[0].path, model.read_bytes()
    tensors, metadata = files.fetch(first)
    name = next(name for name in sorted(tensors) if name.startswith("state/") and tensors[name].is_floating_point())
    spoiled = torch.full_like(tensors[name], torch.nan) if how == "nan" else torch.stack([tensors[name]] * 2)
    files.store(first, {**tensors, name: spoiled}, metadata)
    refused(equimos("rollback", "-m", model, 1), "1.safetensors")
    assert model.read_bytes() == now


def test_rollback_without_the_backbones_weights_says_so(equimos: Equimos, model: Path) -> None:
    done(equimos("rename", "rose", "lily", "-m", model))
    file = Path(continual.load(model).backbone.describe()["weights_file"])
    moved = file.rename(file.with_name("moved.safetensors"))
    try:
        result = equimos("rollback", "-m", model)
        assert f"the weights of its backbone are not at {file}" in done(result) + result.stderr.replace("\n", " ")
        result = equimos("rollback", "-m", model, 2, "--weights", moved)
        assert "note" not in done(result) + result.stderr
    finally:
        moved.rename(file)
