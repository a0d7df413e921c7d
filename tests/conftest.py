"""Fixtures every test may use: a tiny random ViT, small images, and the shared data if it is there."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import timm
import torch

from continual.backbones import Backbone, assemble

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tiny tensors are fastest on one thread, and tests run side by side."""
    torch.set_num_threads(1)


def tiny_vit(seed: int = 0) -> torch.nn.Module:
    """A random ViT of width 32 with 2 blocks, for images of 16 x 16."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return timm.create_model(
            "vit_tiny_patch16_224",
            img_size=16,
            patch_size=4,
            embed_dim=32,
            depth=2,
            num_heads=2,
            num_classes=0,
        )


TINY_ARGS = {"img_size": 16, "patch_size": 4, "embed_dim": 32, "depth": 2, "num_heads": 2}


@pytest.fixture
def backbone() -> Backbone:
    return assemble(tiny_vit(), "vit_tiny_patch16_224", TINY_ARGS, crop_scale=(0.5, 1.0))


@pytest.fixture
def blobs() -> Callable[..., tuple[torch.Tensor, list[int]]]:
    """Return make(classes, per_class, seed): uint8 images (N, 3, 16, 16), a colour pattern a class."""

    def make(classes: list[int], per_class: int = 8, seed: int = 0) -> tuple[torch.Tensor, list[int]]:
        images, labels = [], []
        for label in classes:
            pattern = torch.rand(3, 4, 4, generator=torch.Generator().manual_seed(1000 + label))
            pattern = pattern.repeat_interleave(4, 1).repeat_interleave(4, 2)
            noise = torch.Generator().manual_seed(seed * 7919 + label)
            for _ in range(per_class):
                image = pattern + 0.08 * torch.randn(3, 16, 16, generator=noise)
                images.append((image.clamp(0, 1) * 255).to(torch.uint8))
                labels.append(label)
        return torch.stack(images), labels

    return make


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of shared data, weights and golden arrays; tests that need it skip where it is absent."""
    folder = Path(os.environ.get("EQUIMOS_SHARED", ROOT.parent / "shared"))
    if not (folder / "golden").is_dir():
        pytest.skip(f"no shared data at {folder}; set EQUIMOS_SHARED to its folder")
    return folder
