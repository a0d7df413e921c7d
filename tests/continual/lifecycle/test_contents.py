"""What a model file holds: every tensor named and explained, every byte accounted for, and no picture."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors import safe_open

import continual
from continual.lifecycle.seen_images import SeenImages
from continual.methods import RECOMMENDED, methods
from tests.conftest import ROOT

Equimos = Callable[..., Any]
Pictures = Callable[..., Path]

WIDTH = 32  #: D of the tiny ViT
DOCUMENT = ROOT / "docs" / "model_file.md"


def explained(method: str) -> dict[str, tuple[str, str]]:
    """The document's tables for a method and for all: name -> (dtype, shape)."""
    parts = DOCUMENT.read_text(encoding="utf-8").split("\n## With ")
    own = "".join(part for part in parts if part.startswith((f"`{method}`", "every method")))
    rows = re.findall(r"^\| `(\S+)` \| (\w+) \| `\((.*?)\)` \|", own, re.MULTILINE)
    return {name: (kind, shape) for name, kind, shape in rows}


def size_of(shape: str, known: dict[str, int]) -> list[int]:
    names = [part.strip() for part in shape.split(",") if part.strip()]
    return [known[name] if name in known else int(name) for name in names]


@pytest.fixture(params=["mos", RECOMMENDED])
def grown(request: Any, model: Path, equimos: Equimos, pictures: Pictures, flowers: Path, weights: Path) -> Path:
    """A model after three experiences, a correction and a removal, some images held out."""
    if request.param != "mos":
        model = model.with_name("other.safetensors")
        words = ("--weights", weights, "--method", request.param, "--hold-out", 0.2)
        assert equimos("learn", "--yes", "-i", flowers, "-m", model, *words).exit_code == 0
    for number, names in enumerate((["iris", "lily"], ["aster"])):
        folder = pictures(f"more{number}", names, 6)
        assert equimos("learn", "--yes", "-i", folder, "-m", model).exit_code == 0
    assert equimos("correct", pictures("odd", ["poppy"]), "--class", "rose", "-m", model).exit_code == 0
    assert equimos("forget", "lily", "-m", model).exit_code == 0
    return model


def test_every_tensor_is_explained_and_has_that_size(grown: Path) -> None:
    """C classes, E experiences and M images met decide every shape: nothing grows with the pictures themselves."""
    width = 2 * 2 * WIDTH  # the tiny ViT has two blocks
    known = {"C": 4, "E": 3, "D": WIDTH, "r": 4, "L": 2, "M": 8 + 6 + 6 + 4, "F": width, "k": min(width, 256)}
    known["T"] = width * (width + 1) // 2
    method = continual.load(grown).method
    table, seen = explained(method), set[str]()
    with safe_open(grown, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118
            row = re.sub(r"(?<=/)\d+(?=/)", "N", name)
            assert row in table, f"{name} is not explained in {DOCUMENT.name}"
            kind, shape = table[row]
            found = file.get_tensor(name)
            assert (str(found.dtype), list(found.shape)) == (f"torch.{kind}", size_of(shape, known)), name
            seen.add(row)
        stacks = {name.split("/")[2] for name in file.keys() if name.startswith("state/bank/")}  # noqa: SIM118
        classes = {name.split("/")[2] for name in file.keys() if name.startswith("state/statistics/")}  # noqa: SIM118
    assert seen == set(table), "the document explains what is not there"
    if method == "mos":
        assert (len(stacks), len(classes)) == (known["E"], known["C"])


def test_every_byte_is_accounted_for(grown: Path, equimos: Equimos) -> None:
    """Header, tensors, nothing else; and the header is names, numbers and text."""
    whole = grown.read_bytes()
    length = int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8 : 8 + length])
    spans = sorted(entry["data_offsets"] for name, entry in header.items() if name != "__metadata__")
    assert spans[0][0] == 0
    assert all(a[1] == b[0] for a, b in pairwise(spans))
    assert 8 + length + spans[-1][1] == len(whole)
    about = json.loads(equimos("info", "-m", grown, "--json", "-").stdout)
    assert sum(about["memory_bytes"].values()) == spans[-1][1]
    assert set(header["__metadata__"]) == {"format", "version", "equimos"}
    texts = [str(value) for value in json.loads(header["__metadata__"]["equimos"]).values()]
    assert max(map(len, texts)) < 3000


def test_no_picture_is_in_it(grown: Path, tmp_path: Path) -> None:
    """Neither the files learned from, nor their pixels, in any of the usual orders and types, nor compressed."""
    whole, files = grown.read_bytes(), sorted(tmp_path.glob("*/*/*.png"))
    assert len(files) == 12 + 6 + 4
    for path in files:
        pixels = torch.frombuffer(bytearray(Image.open(path).convert("RGB").tobytes()), dtype=torch.uint8)
        for row in (pixels, pixels.reshape(-1, 3).T.reshape(-1)):
            for part in (row[:24], row[:24].float(), row[:24].float() / 255):
                assert part.numpy().tobytes() not in whole
        content = path.read_bytes()
        assert content not in whole
        assert content[content.index(b"IDAT") + 4 :][:32] not in whole
        assert zlib.compress(pixels.numpy().tobytes())[:32] not in whole


def test_twice_the_pictures_cost_21_bytes_each(
    equimos: Equimos, pictures: Pictures, weights: Path, tmp_path: Path
) -> None:
    sizes = []
    for number in (10, 20):
        model = tmp_path / f"{number}.safetensors"
        words = ("-i", pictures(f"of{number}", ["rose", "tulip"], number), "-m", model, "--weights", weights)
        assert equimos("learn", "--yes", *words, "--method", "simple_cil").exit_code == 0
        with safe_open(model, framework="pt") as file:
            sizes.append(sum(file.get_tensor(n).nbytes for n in file.keys()))  # noqa: SIM118
    assert sizes[1] - sizes[0] == 20 * 21


def test_methods_that_say_so_keep_nothing_an_image_long(pictures: Pictures, backbone: Any, blobs: Any) -> None:
    """Their state has the same bytes however many images there were."""
    quick = {"epochs": 1, "batch_size": 4, "bottleneck": 4, "projection": 50, "alignment_epochs": 1, "last_blocks": 1}
    for name, kind in methods().items():
        if not kind.exemplar_free:
            continue
        fields = {k: v for k, v in quick.items() if k in kind.settings_type.model_fields}
        sizes = []
        for each in (4, 9):
            learner = kind(backbone, **fields)
            learner.learn(*blobs([0, 1], each))
            sizes.append(learner.memory())
        assert sizes[0] == sizes[1], name


def test_no_seen_images_take_no_place() -> None:
    assert sum(t.nbytes for t in SeenImages().pack()[0].values()) == 0
