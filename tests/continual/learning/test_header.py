"""The schema of a model file's header: what keeps it passes, and each fault is named by its field."""

from __future__ import annotations

from typing import Any

import pytest

from continual.errors import InputError, ModelFileError
from continual.learning.header import check_labels, checked
from tests.support.headers import header


def test_a_sound_header_passes_as_it_is() -> None:
    assert checked(header()) == header()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"state": {"classes": ["a", "a"]}}, "state: the class 'a' is there twice"),
        ({"state": {"classes": ["a", 1]}}, "state.classes"),
        ({"state": {"classes": ["a", "\ud800"]}}, "control character"),
        ({"state": {"classes": ["a", "b\nc"]}}, "control character"),
        ({"state": {"experiences": 10**9}}, "state.experiences"),
        ({"state": {"class_experience": [0]}}, "there are 2 classes, and 1 experiences of them"),
        ({"state": {"class_experience": [0, 5]}}, "of experience 5, of 1"),
        ({"settings": {"lr": float("nan")}}, "settings"),
        ({"backbone": {"name": "hf-hub:evil/model"}}, "backbone.name"),
        ({"backbone": {"sha256": "x"}}, "backbone.sha256"),
        ({"backbone": {"preprocessing": {"size": [10**9, 16]}}}, "backbone.preprocessing.size"),
        ({"backbone": {"preprocessing": {"std": [0.0, 1.0, 1.0]}}}, "backbone.preprocessing.std"),
        ({"backbone": {"preprocessing": {"kind": 1}}}, "backbone.preprocessing.kind: this field is not known"),
        ({"extra": 1}, "extra: this field is not known"),
        ({"method": 3}, "method"),
    ],
)
def test_each_fault_is_named_by_its_field(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ModelFileError, match=said):
        checked(header(**changes))


@pytest.mark.parametrize("label", ["", "a\x1b[31m", "\udcff", "x" * 1001, 2**63])
def test_names_that_no_file_could_hold_are_refused_before_learning(label: str | int) -> None:
    with pytest.raises(InputError, match="give the class another name"):
        check_labels([label])
