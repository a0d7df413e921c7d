"""Folders of good images alone, as people who look for defects have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from continual.cli.given import check_given, only_class
from continual.errors import InputError
from continual.lifecycle.new_images import Plan, plan
from continual.lifecycle.seen_images import SeenImages
from tests.field.case import Case
from tests.support.dataset_fakes import picture


def _tree(root: Path, *folders: str, each: int = 3) -> Path:
    for folder in folders:
        for number in range(each):
            picture(root / folder / f"{number}.png")
    return root


def _planned(root: Path) -> Plan:
    flat = check_given(root, (), False, one_class=True)
    return plan(root, SeenImages(), [], single=only_class(root, (), ()) if flat else None)


def _labels(made: Plan) -> list[object]:
    assert not made.problems
    return [image.entry.label for image in made.learn]


def _flat(folder: Path) -> None:
    root = _tree(folder, "line 3")
    assert _labels(_planned(root / "line 3")) == ["good"] * 3
    with pytest.raises(InputError, match=r"3 images and no class folders.*--one-class"):
        check_given(root / "line 3", (), False, one_class=False)


def _mvtec(folder: Path) -> None:
    root = _tree(folder, "train/good", "test/good", "test/broken_large", "ground_truth/broken_large")
    made = _planned(root)
    assert _labels(made) == ["good"] * 3
    assert {picture.path.parent for picture in made.learn} == {root / "train" / "good"}
    assert any("is left alone" in note for note in made.notes)


def _flat_parts(folder: Path) -> None:
    root = _tree(folder, "train", "test")
    made = _planned(root)
    assert _labels(made) == ["good"] * 3
    assert {picture.path.parent for picture in made.learn} == {root / "train"}


CASES = [
    Case(
        "Folders",
        "`--one-class` with a folder of good images, without class folders; the same without the option",
        "all are of one class, `good`, or the only class that the model knows; without the option one error names it",
        "class folders that a loader finds none of, asked about in trackers of anomaly detection",
        _flat,
    ),
    Case(
        "Folders",
        "`--one-class` with MVTec's layout: `train/good`, `test/good`, `test/broken_large`, `ground_truth`",
        "`train/good` is learned, the rest is left alone and named",
        "layouts of defect data sets that need a data module of their own",
        _mvtec,
    ),
    Case(
        "Folders",
        "`--one-class` with `train` and `test` in which images lie as they are",
        "those of `train` are learned as one class",
        "splits without classes, in trackers of anomaly detection",
        _flat_parts,
    ),
]
