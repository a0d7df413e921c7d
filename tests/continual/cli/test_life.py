"""The page "A model's life": its commands, in their order, on made-up images and on real ones."""

from __future__ import annotations

import csv
import itertools
import json
import re
import shlex
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from PIL import Image

import continual
from tests.conftest import ROOT
from tests.continual.conftest import write_weights

Equimos = Callable[..., Any]

PAGE = (ROOT / "docs" / "life.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```bash\n(.*?)```", PAGE, flags=re.DOTALL)
COMMANDS = [shlex.split(line)[1:] for block in BLOCKS for line in block.splitlines() if line.startswith("equimos")]

#: class by class, how many images each folder gets; folders below which there are no class folders
CLASSED = {"january": ["bolt", "ring"], "february": ["nut", "hook"], "elsewhere": ["pin", "bolt"]}
FLAT = {"pool": ["bolt", "cap", "cup"], "unsorted": ["ring", "nut", "hook"]}

#: (class) -> its images, each of which is taken once
Pictures = Callable[[str], Iterator[Image.Image]]


def furnished(folder: Path, pictures: Pictures, others: Iterator[Image.Image], each: int) -> None:
    """Fill a folder as the page says; a picture in `pool` carries its class in its name, as someone would see it."""
    taken = {name: pictures(name) for names in (*CLASSED.values(), *FLAT.values()) for name in names}
    for place, names in CLASSED.items():
        for name in names:
            (folder / place / name).mkdir(parents=True)
            for number in range(each):
                next(taken[name]).save(folder / place / name / f"{number}.png")
    for place, names in FLAT.items():
        (folder / place).mkdir()
        for name in names:
            for number in range(each):
                next(taken[name]).save(folder / place / f"{name}-{number}.png")
    (folder / "anything").mkdir()
    for number in range(24 if each < 10 else 60):
        next(others).save(folder / "anything" / f"{number}.png")
    Image.new("RGB", (32, 16), (255, 0, 0)).save(folder / "logo.png")


def filled_in(picks: Path) -> None:
    """Write the label of every pick, as someone who looks at it."""
    with picks.open(encoding="utf-8", newline="") as file:
        rows = [*csv.DictReader(file)]
    for row in rows:
        row["label"] = Path(row["path"]).stem.partition("-")[0]
    with picks.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def walked(
    equimos: Equimos,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    after: Callable[[str, str | None], None],
    **changed: str,
) -> None:
    """Run the page's commands, some options `changed`; `after` is called with each, and the model that it changed."""
    monkeypatch.chdir(folder)
    for words in COMMANDS:
        options = dict(itertools.pairwise(words))
        words = [changed.get(before.strip("-"), word) for before, word in zip(["", *words], words, strict=False)]
        result = equimos(*words)
        assert result.exit_code == 0, (words, result.stdout, result.stderr)
        if words[0] == "grow":
            updated(folder)
        if words[0] == "select":
            filled_in(folder / "picks.csv")
        name = " ".join(words[:2] if words[0] == "concept" else words[:1])
        changes = name not in ("grow", "select", "concept check", "compress", "history", "predict")
        after(name, options.get("--out", options.get("--model")) if changes else None)


#: what the page shows, each by one of its commands
SHOWN = {
    "grow",
    "select",
    "learn",
    "concept check",
    "concept suppress",
    "concept allow",
    "port",
    "merge",
    "consolidate",
}
SHOWN |= {"compress", "forget", "history", "rollback", "predict"}


def test_the_walk_on_made_up_images(equimos: Equimos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def pictures(name: str) -> Iterator[Image.Image]:
        draw = torch.Generator().manual_seed(int.from_bytes(name.encode()[-7:]))
        pattern = torch.rand(3, 4, 4, generator=draw).repeat_interleave(4, 1).repeat_interleave(4, 2)
        while True:
            picture = (pattern + 0.05 * torch.randn(3, 16, 16, generator=draw)).clamp(0, 1) * 255
            yield Image.fromarray(picture.to(torch.uint8).permute(1, 2, 0).numpy())

    others = (next(pictures(f"thing {number}")) for number in range(24))
    furnished(tmp_path, pictures, others, 6)
    write_weights(tmp_path / "own.safetensors", 0)
    done: list[str] = []
    walked(equimos, tmp_path, monkeypatch, lambda name, _: done.append(name), depth="3")
    assert {*done} == SHOWN
    small = continual.load(tmp_path / "pocket.safetensors")
    assert small.backbone.recipe is not None
    assert (small.backbone.recipe.kind, small.backbone.depth) == ("compressed", 3)
    whole = continual.load(tmp_path / "all.safetensors", weights=tmp_path / "updated.safetensors")
    assert {"bolt", "ring", "nut", "hook", "pin"} <= {*whole.classes}, "what was forgotten is back"
    single = continual.load(tmp_path / "single.safetensors", weights=tmp_path / "updated.safetensors")
    assert {*single.classes} == {*whole.classes} == {*small.classes}
    assert len(single.state.bank) == 1
    assert len(whole.state.bank) >= 4
    truth = ["bolt", "ring", "nut", "pin"]
    answers = whole.predict([next(pictures(name)) for name in truth]).labels
    assert sum(a == name for a, name in zip(answers, truth, strict=True)) >= 3


def updated(folder: Path, share: float = 0.02) -> None:
    """Write `updated.safetensors`: the weights of `vit.safetensors`, each moved by a share of their deviation."""
    tensors = safetensors.torch.load_file(folder / "vit.safetensors")
    with safetensors.safe_open(folder / "vit.safetensors", "pt") as file:
        metadata = file.metadata()
    draw = torch.Generator().manual_seed(0)
    moved = {k: t + share * t.std(correction=0) * torch.randn(t.shape, generator=draw) for k, t in tensors.items()}
    safetensors.torch.save_file(moved, folder / "updated.safetensors", metadata)


#: classes of Tiny-ImageNet under the page's names
REAL = {"bolt": 0, "ring": 1, "nut": 2, "pin": 3, "cap": 4, "cup": 5, "hook": 6}


@pytest.mark.shared
@pytest.mark.slow
def test_the_walk_on_real_images(
    shared: Path, equimos: Equimos, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven classes of Tiny-ImageNet, 12 images each a folder, and 60 of other classes; 15 test images a class."""
    folder = shared / "data" / "tiny_imagenet_100"
    names = sorted(path.name for path in (folder / "train").iterdir())[20:]

    def pictures(name: str) -> Iterator[Image.Image]:
        for path in sorted((folder / "train" / names[REAL[name]]).iterdir()):
            yield Image.open(path).convert("RGB")

    rest = [path for name in names[7:] for path in sorted((folder / "train" / name).iterdir())[:1]]
    others = (Image.open(path).convert("RGB") for path in rest)
    furnished(tmp_path, pictures, others, 12)
    backbone = continual.load_backbone(
        weights=shared / "weights" / "vit_small_patch14_dinov2_depth11_fp16.safetensors", img_size=70
    )
    about = {"timm": backbone.name, **{key: json.dumps(value) for key, value in backbone.model_args.items()}}
    safetensors.torch.save_file(backbone.frozen.network.state_dict(), tmp_path / "own.safetensors", about)
    test = [(path, name) for name, c in REAL.items() for path in sorted((folder / "test" / names[c]).iterdir())[:15]]
    figures: list[tuple[str, int, float]] = []

    def after(command: str, model: str | None) -> None:
        if model is None:
            return
        learner = continual.load(tmp_path / model)
        rows = [(path, name) for path, name in test if name in learner.classes]
        answers = learner.predict([path for path, _ in rows]).labels
        right = sum(a == name for a, (_, name) in zip(answers, rows, strict=True)) / len(rows)
        figures.append((command, len(learner.classes), right))
        print(f"{command:<18} {model:<20} {len(learner.classes)} classes {right:.1%}", flush=True)

    walked(equimos, tmp_path, monkeypatch, after)
    assert all(right > 2 / classes for _, classes, right in figures if classes > 3)
