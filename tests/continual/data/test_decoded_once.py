"""Files are opened once, within a limit, and nothing else changes; how long a training waits is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from continual.backbones.loading import Backbone
from continual.data import images as image_files
from continual.data.images import DecodedOnce
from continual.learning import loop
from continual.learning.loop import DataTime
from continual.methods.mos.learner import MOSLearner

Blobs = Callable[..., tuple[Tensor, list[int]]]
QUICK: dict[str, Any] = {"epochs": 3, "batch_size": 4, "bottleneck": 4}


@pytest.fixture
def paths(blobs: Blobs, tmp_path: Path) -> tuple[list[Path], list[int]]:
    images, labels = blobs([0, 1], 4)
    files = [tmp_path / f"{number}.png" for number in range(len(images))]
    for path, image in zip(files, images, strict=True):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)
    return files, labels


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files opened, one after another."""
    names: list[str] = []
    real = image_files.open_image

    def counted(raw: Any, index: int = 0, **options: Any) -> Any:
        names.append(Path(raw).name)
        return real(raw, index, **options)

    monkeypatch.setattr(image_files, "open_image", counted)
    return names


def test_a_training_opens_every_file_once(
    backbone: Backbone, paths: tuple[list[Path], list[int]], opened: list[str]
) -> None:
    MOSLearner(backbone, **QUICK).learn(*paths)
    assert sorted(opened) == sorted(path.name for path in paths[0])


@pytest.mark.parametrize("workers", [0, 2])
def test_what_is_learned_is_the_same_with_and_without(
    backbone: Backbone, paths: tuple[list[Path], list[int]], workers: int
) -> None:
    kept, anew = MOSLearner(backbone, **QUICK), MOSLearner(backbone, **QUICK)
    kept.learn(*paths, workers=workers)
    anew.learn(*paths, decoded=0)
    assert all(torch.equal(a, b) for a, b in zip(kept.export()[0].values(), anew.export()[0].values(), strict=True))


def test_no_more_than_the_limit_is_kept(paths: tuple[list[Path], list[int]], opened: list[str]) -> None:
    images = DecodedOnce(paths[0], limit=3 * 4 * 16 * 16 + 1)
    for _ in range(2):
        for index in range(len(images)):
            assert images[index].tobytes() == Image.open(paths[0][index]).tobytes()
    assert images.held == 3 * 4 * 16 * 16
    assert len(opened) == 8 + 5
    assert opened.count("0.png") == 1


def test_what_is_no_file_is_handed_on() -> None:
    image = torch.zeros(3, 4, 4)
    assert DecodedOnce([image])[0] is image


def test_waiting_is_the_share_of_the_time_spent_in_the_loader(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(loop, "time", SimpleNamespace(perf_counter=lambda: now))

    def slow() -> Any:
        nonlocal now
        for number in range(4):
            now += 3
            yield number

    waiting = DataTime()
    for _ in waiting.over(slow()):
        now += 1
    assert waiting.share() == 12 / 16
