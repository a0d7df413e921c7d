"""Years of use, in small: the commands are called as they take their options today."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import timm
import torch
import year
from PIL import Image
from safetensors.torch import save_file

from continual.testing import TINY_ARGS, coloured_squares


def test_months_with_a_correction_and_a_removal_are_lived_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        vit = timm.create_model("vit_tiny_patch16_224", num_classes=0, **TINY_ARGS)
    metadata = {"timm": "vit_tiny_patch16_224", **{key: json.dumps(value) for key, value in TINY_ARGS.items()}}
    save_file(vit.state_dict(), tmp_path / "vit.safetensors", metadata=metadata)
    for part, count in (("train", 12), ("test", 5)):
        for label in range(6):
            (folder := tmp_path / part / f"kind {label}").mkdir(parents=True)
            # The later images are of another class: answers are wrong, to be corrected.
            for number, image in enumerate(coloured_squares([label], count, seed=len(part))[0]):
                shown = (
                    image if number < 4 or part == "test" else coloured_squares([(label + 1) % 6], 1, seed=number)[0][0]
                )
                Image.fromarray(shown.permute(1, 2, 0).numpy()).save(folder / f"{number:02}.png")
    words = ["--images", tmp_path, "--weights", tmp_path / "vit.safetensors", "--out", tmp_path / "out"]
    words += ["--months", 3, "--classes", 2, "--per-class", 4, "--test", 5, "--size", 16]
    monkeypatch.setattr(sys, "argv", ["year.py", *map(str, words)])
    year.main()
    rows = json.loads((tmp_path / "out" / "year.json").read_text())["rows"]
    assert [row["event"].split()[0] for row in rows] == ["learn", "correct", "learn", "forget", "learn"]
    assert [row["classes"] for row in rows] == [2, 2, 4, 3, 5]
    assert all(row["unknown AUROC"] is not None for row in rows)
