"""Images without labels, lists that are being filled in, and things that lie on images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image

import continual
from continual.data.inputs import as_experience
from continual.errors import InputError
from continual.learning.concept import Concept
from continual.lifecycle.new_images import plan
from continual.lifecycle.seen_images import SeenImages
from continual.lifecycle.unlabelled_images import without_labels
from continual.testing import coloured_squares, tiny_backbone
from tests.field.case import Case

SECTION = "Labels to come"


def _pictures(folder: Path, each: int = 4) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    images, labels = coloured_squares([0, 1], each)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{label}-{number}.png")
    return sorted(folder.iterdir())


def _half_filled_list(folder: Path) -> None:
    paths = _pictures(folder / "photos")
    lines = [f"photos/{path.name},{'rose' if number < 4 else ''},3" for number, path in enumerate(paths)]
    (folder / "picks.csv").write_text("\n".join(["path,label,stands_for", *lines]) + "\n", encoding="utf-8")
    with pytest.raises(InputError, match="has 4 problems:\nline 6: no label"):
        plan(folder / "picks.csv", SeenImages(), [])


def _list_of_excel(folder: Path) -> None:
    paths = _pictures(folder / "photos")
    lines = [f"photos/{path.name},{path.name[0]}" for path in paths]
    (folder / "picks.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(["path,label", *lines, ""]).encode())
    found = plan(folder / "picks.csv", SeenImages(), [])
    assert sorted(str(picture.entry.label) for picture in found.learn) == ["0"] * 4 + ["1"] * 4


def _one_folder_for_both(folder: Path) -> None:
    for label in ("0", "1"):
        (folder / "sorted" / label).mkdir(parents=True)
    for path in _pictures(folder / "photos", 6):
        if int(path.stem.partition("-")[2]) % 6 < 2:
            (folder / "sorted" / path.name[0] / path.name).write_bytes(path.read_bytes())
    (folder / "photos" / "broken.png").write_bytes(b"no picture")
    made = plan(folder / "sorted", SeenImages(), [])
    found, left = without_labels(folder / "photos", made)
    assert (len(found), left) == (8, 5)


def _budget_above_the_pool(folder: Path) -> None:
    _pictures(folder)
    with pytest.raises(InputError, match="the budget is 9, and there are 8 images"):
        continual.select(folder, 9, tiny_backbone())


def _a_stamp_without_alpha(folder: Path) -> None:
    Image.new("P", (10, 5), 3).save(folder / "logo.gif")
    concept = Concept.of(coloured_squares([0, 1], 5)[0], stamp=folder / "logo.gif")
    assert len(concept.present) == 10
    assert concept.present[0].mode == "RGB"


def _a_stamp_on_normalised(folder: Path) -> None:
    concept = Concept.of(torch.randn(8, 3, 16, 16), stamp=Image.new("RGB", (4, 4)))
    with pytest.raises(InputError, match="give paths, PIL images, or uint8 images"):
        concept.present[0]


def _labelled_data_as_unlabelled(folder: Path) -> None:
    learner = continual.methods.method("ridge")(tiny_backbone())
    given = as_experience(*coloured_squares([0, 1], 6), learner.preprocessing)
    learner.learn(given, unlabelled=coloured_squares([0, 1], 6, 1)[0].numpy())
    assert learner.unlabelled_use is not None
    assert learner.unlabelled_use.given == 12


CASES = [
    Case(
        SECTION,
        "a list of images to label, filled in by half",
        "one error with the lines that have no label; nothing is learned",
        "annotation tables that are read while someone works on them",
        _half_filled_list,
    ),
    Case(
        SECTION,
        "the same list, saved by a spreadsheet with a byte order mark and CRLF",
        "read",
        "CSV files that come back from Excel",
        _list_of_excel,
    ),
    Case(
        SECTION,
        "unlabelled images in a folder that also holds the labelled ones, and a broken file",
        "those with labels, by their content, and broken ones are left out and counted",
        "semi-supervised runs that evaluated on images they had trained on",
        _one_folder_for_both,
    ),
    Case(
        SECTION,
        "unlabelled images as an array",
        "taken as `predict` takes them",
        "arrays of crops",
        _labelled_data_as_unlabelled,
    ),
    Case(
        SECTION,
        "a budget above the number of images",
        "one error with both numbers",
        "active learning loops whose last round asks for more than is left",
        _budget_above_the_pool,
    ),
    Case(
        SECTION,
        "a logo as a GIF, or without transparency",
        "put on as it is; where it is transparent, the image shows through",
        "watermarks in any file a designer sends",
        _a_stamp_without_alpha,
    ),
    Case(
        SECTION,
        "normalised tensors, to be stamped",
        "one error that says what can be stamped: files, pictures, uint8",
        "augmentations that draw on tensors after normalisation",
        _a_stamp_on_normalised,
        row="",
    ),
]
