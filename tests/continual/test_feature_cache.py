"""A cache computes each image under each set of weights once."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from continual.feature_cache import FeatureCache
from continual.seeding import generator

asks = st.lists(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 2)), min_size=1, max_size=6), max_size=5)


@given(asks=asks)
def test_answers_are_those_without_a_cache_and_nothing_is_computed_twice(asks: list[list[tuple[int, int]]]) -> None:
    every = torch.randn(5, 3, 2, 2, generator=generator(0))
    cache, computed = FeatureCache(), []
    for ask in asks:
        images = every[[image for image, _ in ask]]
        weights = [f"stack {stack}" for _, stack in ask]
        factors = torch.tensor([float(stack + 1) for _, stack in ask])[:, None]
        expected = images.flatten(1) * factors

        def compute(rows: Tensor, ask: list[tuple[int, int]] = ask, expected: Tensor = expected) -> Tensor:
            computed.append({ask[row] for row in rows.tolist()})
            return expected[rows]

        assert torch.equal(cache.features(images, weights, compute), expected)
    assert sum(map(len, computed)) == len(set().union(*computed))
