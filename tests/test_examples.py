"""The scripts in `examples/` run as they stand, without a warning, and what their prose claims is so."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


def run(script: str, folder: Path, *arguments: object) -> str:
    """Run an example in an empty folder, and return what it prints."""
    surroundings = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / script), *map(str, arguments)]
    done = subprocess.run(command, cwd=folder, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_has_a_test() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == {
        "detector.py",
        "equivariance.py",
        "fiftyone_labels.py",  # tests/test_integrations.py
        "four_sites.py",
        "label_studio.py",  # tests/test_integrations.py
        "microscope.py",
        "satellite.py",
        "volumes.py",
    }


def test_equivariance(tmp_path: Path) -> None:
    said = run("equivariance.py", tmp_path)
    found = re.findall(r"^(\S.*?) +upright ([\d.]+)% +rotated ([\d.]+)%$", said, flags=re.MULTILINE)
    scores = {name: (float(upright), float(rotated)) for name, upright, rotated in found}
    plain, weighted = scores.pop("plain"), scores["λ-equitune, λ only"]
    assert plain[0] > 95 > 60 > plain[1], "turning costs the plain network dearly"
    assert all(upright == rotated for upright, rotated in scores.values()), "the wrapped ones are invariant"
    assert weighted[1] > plain[0] - 5, "λ alone keeps the upright accuracy"
    assert scores["equitune"] < scores["equizero"] < weighted, "the mean hurts zero-shot"
    assert scores["equitune, fine-tuned"][1] > scores["equitune"][1] + 30, "equitune is for fine-tuning"
    assert (tmp_path / "runs" / "equivariance.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_four_sites(tmp_path: Path) -> None:
    said = run("four_sites.py", tmp_path)
    found = re.findall(r"^(.*?) +\d+ classes +([\d.]+)%", said, flags=re.MULTILINE)
    right = {name.strip(): float(share) for name, share in found}
    assert right["merged"] == right["one place"] > 60
    assert all(right[site] < 40 for site in ("north", "east", "south", "west"))
    assert float(said.split()[-1]) < 1e-6


@pytest.mark.slow
def test_volumes(tmp_path: Path) -> None:
    said = run("volumes.py", tmp_path)
    assert said.startswith("cube: 24 elements; cube with mirrors: 48\n")
    found = re.findall(r"^(\w+) +as trained ([\d.]+)%  any way round ([\d.]+)%$", said, flags=re.MULTILINE)
    (_, upright, turned), (_, same, again) = ((name, float(one), float(other)) for name, one, other in found)
    assert upright > 95 > 60 > turned, "the plain network reads lines along one axis alone"
    assert same == again > 85, "the invariant one reads all"
    assert float(said.split()[-1]) < 1e-5


def test_detector(tmp_path: Path) -> None:
    found = dict(
        re.findall(r"^(\w+(?: \w+)?) +boxes are off by (\S+) pixels$", run("detector.py", tmp_path), re.MULTILINE)
    )
    assert list(found) == ["plain", "fused", "best", "one view"]
    assert float(found.pop("plain")) > 1
    assert all(float(off) < 1e-3 for off in found.values())


@pytest.mark.slow
def test_microscope(tmp_path: Path, shared: Path) -> None:
    weights = shared / "weights" / "vit_small_patch14_dinov2_depth11_fp16.safetensors"
    said = run("microscope.py", tmp_path, shared / "data" / "plankton", weights, 5)
    assert "group: D4, these images have no up" in said
    right, same = ([float(share) for share in re.findall(rf"{what} ([\d.]+)%", said)] for what in ("right", "rotated"))
    assert right[-1] > right[0]
    assert same[0] < 90 < same[1] == 100


@pytest.mark.slow
def test_satellite(tmp_path: Path, shared: Path) -> None:
    weights = shared / "weights" / "vit_small_patch14_dinov2_depth11_fp16.safetensors"
    said = run("satellite.py", tmp_path, shared / "data" / "aid", weights, 5)
    assert "group: D4, these images have no up" in said
    assert float(re.findall(r"^15 classes, right ([\d.]+)%", said, re.MULTILINE)[0]) > 55
    assert "tiles whose answer depends on their position: 0 of 90" in said
