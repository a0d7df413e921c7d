"""A power cut at every step of a writer: whatever the disk had not promised to keep is gone."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

import continual
from continual import files
from continual.learning import model_file
from continual.lifecycle import versions
from tests.support.power import PowerCuts

pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs a folder that can be synced")


def classes(path: Path) -> tuple[str, ...]:
    return tuple(model_file.read(path)[1]["state"]["classes"])


def saved(model: Path) -> None:
    learner = continual.load(model)
    learner.forget("tulip")
    versions.save(learner, model, "forgot tulip", embed_backbone=False)


def renamed(model: Path) -> None:
    versions.rename(model, "renamed", "rose", "c")


def rolled_back(model: Path) -> None:
    versions.rollback(model)


@pytest.mark.parametrize("links", [True, False], ids=["links", "copies"])
@pytest.mark.parametrize("action", [saved, renamed, rolled_back])
def test_a_model_is_the_old_one_or_the_new_and_no_version_is_lost(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, action: Callable[[Path], None], links: bool
) -> None:
    if not links:
        monkeypatch.setattr(os, "link", lambda *_: (_ for _ in ()).throw(OSError("no links here")))
    if action is rolled_back:
        renamed(model)
    old, before = classes(model), {version.number for version in versions.versions(model)}
    cuts = PowerCuts(model.parent)
    with cuts.watching():
        action(model)
    new, after = classes(model), {version.number for version in versions.versions(model)}
    found = 0
    for moment, place in cuts.states(tmp_path / "disk"):
        now = classes(place / model.name)
        assert now in (old, new), moment.step
        assert now == new or moment.step != "end", "the command has ended: nothing may be lost"
        numbers = {version.number for version in versions.versions(place / model.name)}
        assert numbers >= before, f"a version is lost {moment.step}"
        for version in versions.versions(place / model.name):
            assert classes(version.path)
        found += 1
    assert numbers == after
    assert found > 10


def test_text_is_the_old_one_or_the_new(tmp_path: Path) -> None:
    folder = tmp_path / "box"
    folder.mkdir()
    files.write_text(folder / "x.json", "old")
    cuts = PowerCuts(folder)
    with cuts.watching():
        files.write_text(folder / "x.json", "new")
    seen = [(moment.step, (place / "x.json").read_text()) for moment, place in cuts.states(tmp_path / "disk")]
    assert {text for _, text in seen} == {"old", "new"}
    assert {text for step, text in seen if step == "end"} == {"new"}


def test_the_harness_finds_what_was_not_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a sync of the folder the new name may be lost; without one of the file, its content."""
    folder = tmp_path / "box"
    folder.mkdir()
    (folder / "x").write_text("old")
    monkeypatch.setattr(files, "sync_folder", lambda _: None)
    cuts = PowerCuts(folder)
    with cuts.watching():
        files.write_text(folder / "x", "new")
    assert "old" in {(place / "x").read_text() for m, place in cuts.states(tmp_path / "disk") if m.step == "end"}
    cuts = PowerCuts(folder)
    with cuts.watching():
        (folder / "y").write_text("newer")
        os.replace(folder / "y", folder / "x")  # noqa: PTH105
    assert "" in {(place / "x").read_text() for _, place in cuts.states(tmp_path / "disk") if (place / "x").exists()}
