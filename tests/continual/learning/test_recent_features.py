"""Features in memory: the bits that were computed, of the images that were asked about last."""

from __future__ import annotations

import torch
from torch import Tensor

from continual.learning.recent_features import ENTRY, RecentFeatures

IMAGES = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
ROW = IMAGES[0].numel() * 4


class Counting:
    """Features of images, and of how many they were asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.asked.append(len(images))
        return images.flatten(1).cos()


def test_what_was_computed_is_not_computed_again() -> None:
    kept, compute = RecentFeatures(), Counting()
    first = kept.features(IMAGES, {"reading": "a"}, compute)
    assert torch.equal(kept.features(IMAGES.flip(0), {"reading": "a"}, compute), first.flip(0))
    assert compute.asked == [6]
    kept.features(IMAGES, {"reading": "b"}, compute)
    assert compute.asked == [6, 6]


def test_a_batch_is_computed_whole() -> None:
    """So that its features are rounded as they are without."""
    kept, compute = RecentFeatures(), Counting()
    kept.features(IMAGES[:2], {}, compute)
    kept.features(IMAGES, {}, compute)
    kept.features(IMAGES[3:], {}, compute)
    assert compute.asked == [2, 6]


def test_those_not_asked_for_the_longest_go_first() -> None:
    kept, compute = RecentFeatures(limit=3 * (ROW + ENTRY)), Counting()
    for row in (0, 1, 2, 0, 3):
        kept.features(IMAGES[row : row + 1], {}, compute)
    assert len(compute.asked) == 4
    kept.features(IMAGES[0:1], {}, compute)
    assert len(compute.asked) == 4, "it was asked for again before the fourth"
    kept.features(IMAGES[1:2], {}, compute)
    assert len(compute.asked) == 5
    kept.features(IMAGES, {}, compute)
    assert kept._bytes == 3 * (ROW + ENTRY) == sum(r.untyped_storage().nbytes() + ENTRY for r in kept._rows.values())


def test_features_that_are_not_finite_are_not_kept() -> None:
    kept, compute = RecentFeatures(), Counting()
    for _ in range(2):
        kept.features(IMAGES * torch.nan, {}, compute)
    assert compute.asked == [6, 6]
