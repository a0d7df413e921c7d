"""The versions that the package asks for are none with a hole that its promises rest on: checked without a network."""

from __future__ import annotations

import tomllib
from importlib import metadata

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

from tests.conftest import ROOT

#: package -> the lowest version that is safe for what is done with it here, and why
SAFE = {
    "torch": ("2.6", "torch.load(weights_only=True) of before could be made to run code (CVE-2025-32434)"),
    "timm": ("1.0.26", "checkpoints are loaded as weights only; those of before unpickled what they were given"),
    "pillow": ("11.3", "its DDS writer overflowed (CVE-2025-48379); buffers of decoders before 10.3 (CVE-2024-28219)"),
    "python-multipart": ("0.0.18", "a body without a boundary kept the server busy (CVE-2024-53981)"),
    "starlette": (
        "0.47.2",
        "forms of many parts (CVE-2024-47874) and large files (CVE-2025-54121) kept the server busy",
    ),
    "fastapi": ("0.115.3", "of before, none takes a starlette of 0.40, in which the first of these is mended"),
    "onnx": ("1.16.2", "download of models wrote outside its folder (CVE-2024-5187)"),
    "open_clip_torch": ("3.0", "`create_model` loads checkpoints with weights_only=True, which is asked for"),
}


def declared() -> dict[str, Requirement]:
    """What `pyproject.toml` asks for, extras included, but for itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *(line for extra in project["optional-dependencies"].values() for line in extra)]
    found = [Requirement(line) for line in lines]
    return {one.name.lower(): one for one in found if one.name != project["name"]}


@pytest.mark.parametrize("name", sorted(SAFE))
def test_no_version_below_the_safe_one_is_allowed(name: str) -> None:
    lowest, reason = SAFE[name]
    floors = [Version(part.version) for part in declared()[name].specifier if part.operator == ">="]
    assert floors, f"{name} has no lowest version: {reason}"
    assert max(floors) >= Version(lowest), reason


def test_what_is_installed_is_what_was_asked_for() -> None:
    """The tests say something of these versions alone."""
    for name, asked in declared().items():
        try:
            there = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
        assert asked.specifier.contains(there, prereleases=True), f"{name} {there} is not {asked.specifier}"


def test_every_dependency_has_a_lowest_version() -> None:
    for name, asked in declared().items():
        assert any(part.operator == ">=" for part in asked.specifier), name
