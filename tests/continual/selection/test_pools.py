"""Choosing from a pool: k-means and its nearest images, and FreeSel's patterns against scikit-learn's clustering."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import SpectralClustering
from torch import Tensor
from torch.nn.functional import normalize

from continual.seeding import generator
from continual.selection.centres import nearest_to_centres
from continual.selection.patterns import attended, by_patterns, patterns_of, spectral_groups


def heaps(groups: int, each: int, seed: int = 0, spread: float = 0.1) -> Tensor:
    draw = generator(seed, "heaps")
    centres = torch.randn(groups, 16, generator=draw)
    return torch.cat([row + spread * torch.randn(each, 16, generator=draw) for row in centres])


@given(n=st.integers(1, 14), count=st.integers(1, 14), seed=st.integers(0, 99), equal=st.booleans())
def test_so_many_different_images_are_chosen(n: int, count: int, seed: int, equal: bool) -> None:
    """Also of images that are all alike, and the same ones again."""
    x = torch.randn(n, 4, generator=generator(seed)) + 1
    x = x[:1].expand(n, -1) if equal else x
    found, sizes = nearest_to_centres(x, count, seed)
    assert len(found) == len(set(found)) == len(sizes) == min(n, count)
    assert sum(sizes) == n
    assert (found, sizes) == nearest_to_centres(x, count, seed)


def test_one_image_of_each_heap_and_the_large_ones_first() -> None:
    x = torch.cat([heaps(1, 9, 0), heaps(1, 4, 1), heaps(1, 6, 2)])
    found, sizes = nearest_to_centres(x, 3, 5)
    assert [place // 1 in range(9) for place in found] == [True, False, False]
    assert sizes == [9, 6, 4]
    assert found[1] in range(13, 19)
    assert found[2] in range(9, 13)


def test_what_has_no_weight_is_chosen_last() -> None:
    weights = torch.zeros(30)
    weights[20:] = 1
    found, _ = nearest_to_centres(heaps(3, 10), 10, 0, weights)
    assert set(found) == set(range(20, 30))
    more, _ = nearest_to_centres(heaps(3, 10), 12, 0, weights)
    assert set(range(20, 30)) < set(more)


@pytest.mark.parametrize("seed", range(5))
def test_groups_of_patches_are_those_of_scikit_learn(seed: int) -> None:
    """Up to the groups' names, where there are groups."""
    patches = heaps(4, 8, seed, spread=0.3)
    mine = spectral_groups(patches, 4).numpy()
    likeness = (normalize(patches, dim=1) @ normalize(patches, dim=1).mT).clamp(min=0).double().numpy()
    theirs = SpectralClustering(4, affinity="precomputed", random_state=0).fit(likeness).labels_
    pairs = set(zip(mine.tolist(), theirs.tolist(), strict=True))
    assert len(pairs) == len(set(mine.tolist())) == len(np.unique(theirs)) == 4


def test_the_fewest_patches_that_are_attended_to() -> None:
    attention = torch.tensor([0.1, 0.4, 0.3, 0.2])
    assert attended(attention, 0.5).tolist() == [1, 2]
    assert attended(attention, 0.4).tolist() == [1]
    assert attended(attention, 1.0).tolist() == [1, 2, 3, 0]


def test_patterns_are_means_of_what_is_attended_to() -> None:
    patches = heaps(2, 3)
    attention = torch.tensor([1.0, 1.0, 0.0, 1.0, 1.0, 0.0]) / 4
    found = patterns_of(patches, attention, 2, share=1.0)
    assert sorted(found.tolist()) == sorted([patches[:2].mean(0).tolist(), patches[3:5].mean(0).tolist()])
    assert patterns_of(patches, attention, 1, share=1.0).shape == (1, 16)


@given(n=st.integers(1, 10), fewer=st.integers(1, 10), seed=st.integers(0, 99), equal=st.booleans())
def test_fewer_by_patterns_are_the_first_of_more(n: int, fewer: int, seed: int, equal: bool) -> None:
    draw = generator(seed)
    patterns = [torch.randn(1 + i % 3, 4, generator=draw) for i in range(n)]
    patterns = [patterns[0]] * n if equal else patterns
    whole = by_patterns(patterns, n, generator(seed))
    assert sorted(whole) == list(range(n))
    assert by_patterns(patterns, min(n, fewer), generator(seed)) == whole[: min(n, fewer)]


def test_what_is_like_a_chosen_image_comes_later() -> None:
    rows = normalize(heaps(3, 5, spread=1e-3), dim=1)
    for seed in range(10):
        found = by_patterns([row[None] for row in rows], 3, generator(seed))
        assert {place // 5 for place in found} == {0, 1, 2}
    weights = (torch.arange(15) >= 10).float()
    apart = [row[None] for row in heaps(3, 5, spread=0.5)]
    assert all(place >= 10 for place in by_patterns(apart, 5, generator(0), weights))
