"""Fixtures every test may use: a tiny random ViT, small images, and the shared data if it is there."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest
import torch

from continual.backbones.loading import Backbone
from continual.testing import TINY_ARGS, coloured_squares, tiny_backbone

ROOT = Path(__file__).resolve().parents[1]

# The same examples on every run, enough to find what breaks, and no clock that a busy machine could trip.
hypothesis.settings.register_profile("equimos", max_examples=40, derandomize=True, deadline=None, database=None)
hypothesis.settings.load_profile("equimos")


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tiny tensors are fastest on one thread, and tests run side by side."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Features of runs are kept for these tests alone."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EQUIMOS_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def backbone() -> Backbone:
    return tiny_backbone()


@pytest.fixture
def blobs() -> Callable[..., tuple[torch.Tensor, list[int]]]:
    """Make uint8 images (N, 3, 16, 16) of some classes, a colour pattern each, and their labels."""
    return coloured_squares


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data, weights and golden arrays; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("EQUIMOS_SHARED", ROOT.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"no shared data at {folder}; set EQUIMOS_SHARED to its folder")
    return folder


__all__ = ["ROOT", "TINY_ARGS"]
