"""Features on the disk: the bits that were computed, or none."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from continual.backbones.loading import Backbone
from continual.learning import feature_store
from continual.learning.extractor import Extractor
from continual.learning.feature_store import FeatureStore, clear, contents
from continual.testing import tiny_backbone

IMAGES = torch.rand(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))


class Counting:
    """Features of images, and of how many they were asked."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def __call__(self, images: Tensor) -> Tensor:
        self.asked.append(len(images))
        return images.flatten(1).cos()


@pytest.fixture
def compute() -> Counting:
    return Counting()


def test_what_was_computed_is_not_computed_again(tmp_path: Path, compute: Counting) -> None:
    store = FeatureStore(tmp_path)
    first = store.features(IMAGES, {"reading": "a"}, compute)
    assert torch.equal(store.features(IMAGES, {"reading": "a"}, compute), first)
    store.flush()
    other = FeatureStore(tmp_path)
    assert torch.equal(other.features(IMAGES.flip(0), {"reading": "a"}, compute), first.flip(0))
    assert compute.asked == [6]
    assert other.saved > 0
    other.features(IMAGES, {"reading": "b"}, compute)
    assert compute.asked == [6, 6]


def test_a_batch_is_computed_whole(tmp_path: Path, compute: Counting) -> None:
    """So that its features are rounded as they are without a store."""
    store = FeatureStore(tmp_path)
    store.features(IMAGES[:2], {}, compute)
    store.features(IMAGES, {}, compute)
    store.features(IMAGES[3:], {}, compute)
    assert compute.asked == [2, 6]


def test_another_process_s_files_are_taken_up(tmp_path: Path, compute: Counting) -> None:
    here, there = FeatureStore(tmp_path), FeatureStore(tmp_path)
    here.features(IMAGES[:1], {}, compute)
    there.features(IMAGES[1:], {}, compute)
    there.flush()
    here.flush()
    here.features(IMAGES[2:], {}, compute)
    assert compute.asked == [1, 5]


def test_features_that_are_not_finite_are_not_kept(tmp_path: Path, compute: Counting) -> None:
    store = FeatureStore(tmp_path)
    store.features(IMAGES * torch.nan, {}, compute)
    store.flush()
    assert contents(tmp_path) == []


@pytest.mark.parametrize("damage", ["empty", "text", "another"])
def test_a_damaged_file_is_said_removed_and_computed_again(tmp_path: Path, compute: Counting, damage: str) -> None:
    store = FeatureStore(tmp_path)
    first = store.features(IMAGES, {}, compute)
    store.flush()
    (kept,) = contents(tmp_path)
    whole = kept.path.read_bytes()
    bad = {"empty": b"", "text": b"no features", "another": whole.replace(b'"features"', b'"feathers"')}[damage]
    kept.path.write_bytes(bad)
    with pytest.warns(UserWarning, match="cannot be used .* computed again"):
        assert torch.equal(FeatureStore(tmp_path).features(IMAGES, {}, compute), first)
    assert not kept.path.exists()


def test_files_removed_while_in_use_are_computed_again(tmp_path: Path, compute: Counting) -> None:
    store = FeatureStore(tmp_path)
    first = store.features(IMAGES, {}, compute)
    store.flush()
    assert clear(tmp_path) > 0
    assert torch.equal(store.features(IMAGES, {}, compute), first)
    assert compute.asked == [6, 6]
    assert [*tmp_path.iterdir()] == []


def test_what_is_new_is_kept_also_after_the_store_was_cleared(tmp_path: Path, compute: Counting) -> None:
    store = FeatureStore(tmp_path)
    store.features(IMAGES, {"reading": "a"}, compute)
    store.flush()
    clear(tmp_path)
    first = store.features(IMAGES, {"reading": "a"}, compute)
    store.flush()
    assert [json.loads(kept.reading) for kept in contents(tmp_path)] == [{"reading": "a"}]
    assert torch.equal(FeatureStore(tmp_path).features(IMAGES, {"reading": "a"}, compute), first)
    assert compute.asked == [6, 6]


def test_the_limit_holds_before_an_experience_ends(
    tmp_path: Path, compute: Counting, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_store, "HELD", 0)
    store = FeatureStore(tmp_path, limit=2000)
    for image in IMAGES:
        store.features(image[None], {}, compute)
        assert 0 < sum(kept.nbytes for kept in contents(tmp_path)) <= 2000
    assert torch.equal(store.features(IMAGES, {}, compute), IMAGES.flatten(1).cos())


def test_the_longest_unused_make_room(tmp_path: Path, compute: Counting) -> None:
    sizes = []
    for number in range(3):
        store = FeatureStore(tmp_path, limit=10**9 if number < 2 else sum(sizes) + 500)
        store.features(IMAGES, {"number": number}, compute)
        store.flush()
        sizes.append(contents(tmp_path)[-1].nbytes)
    assert [json.loads(kept.reading) for kept in contents(tmp_path)] == [{"number": 1}, {"number": 2}]


def test_a_folder_that_cannot_be_written_is_done_without(tmp_path: Path, compute: Counting) -> None:
    (tmp_path / "file").write_text("")
    store = FeatureStore(tmp_path / "file")
    with pytest.warns(UserWarning, match="not kept for other runs"):
        store.features(IMAGES, {}, compute)
    store.features(IMAGES, {"reading": "b"}, compute)
    store.flush()


def test_weights_precision_and_reading_do_not_share(tmp_path: Path, backbone: Backbone) -> None:
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1))
    ways: list[Callable[[Extractor], Tensor]] = [
        lambda e: e.features(images),
        lambda e: e.block_tokens(images, 2),
        lambda e: e.block_tokens(images, 1),
        lambda e: e.block_tokens(images, 2, patches=False),
        lambda e: replace(e, precision="bfloat16").features(images),
        lambda e: replace(e, backbone=tiny_backbone(seed=1)).features(images),
    ]
    with torch.no_grad():
        plain = [way(Extractor(backbone)) for way in ways]
        for _ in range(2):
            store = FeatureStore(tmp_path)
            found = [way(Extractor(backbone, store=store)) for way in ways]
            assert all(torch.equal(a, b) for a, b in zip(plain, found, strict=True))
            store.flush()
    assert len(contents(tmp_path)) == len(ways)
    assert store.saved > 0
