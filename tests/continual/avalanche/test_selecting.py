"""Avalanche's buffers filled by herding, k-means or patterns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from avalanche.training.storage_policy import ParametricBuffer

from continual.avalanche.selecting import PoolSelection
from continual.avalanche.streams import to_avalanche
from continual.backbones.loading import Backbone
from continual.errors import InputError
from continual.learning.extractor import Extractor
from continual.seeding import generator
from continual.selection.base import selected
from tests.support.avalanche_fixtures import blob_stream


class Agent:
    device, eval_mb_size = "cpu", 4


@pytest.mark.parametrize("by", ["herding", "random", "image", "patterns"])
def test_a_buffer_keeps_what_was_chosen(backbone: Backbone, blobs: Callable[..., Any], by: str) -> None:
    benchmark = to_avalanche(blob_stream(blobs), backbone.preprocessing)
    choose = PoolSelection(backbone, by, count=3, seed=2)
    buffer = ParametricBuffer(max_size=6, groupby="class", selection_strategy=choose)
    for experience in benchmark.train_stream[:1]:
        order = choose.make_sorted_indices(Agent(), experience.dataset)
        assert sorted(order) == list(range(len(experience.dataset)))
        buffer.post_adapt(Agent(), experience)
    assert len(buffer.buffer) == 6
    assert sorted(buffer.buffer.targets) == [0, 0, 0, 1, 1, 1]


def test_herding_is_that_of_the_rule(backbone: Backbone, blobs: Callable[..., Any]) -> None:
    data = to_avalanche(blob_stream(blobs), backbone.preprocessing).train_stream[0].dataset
    images = torch.stack([item[0] for item in data.eval()])
    with torch.no_grad():
        features = Extractor(backbone).features(images)
    expected = selected("herding", features, len(images), generator(1993, "exemplars"))
    assert PoolSelection(backbone).make_sorted_indices(Agent(), data) == expected


def test_what_cannot_be_is_refused(backbone: Backbone) -> None:
    with pytest.raises(InputError, match="unknown selection rule 'imag'"):
        PoolSelection(backbone, "imag")
    with pytest.raises(InputError, match="at least 1, got 0"):
        PoolSelection(backbone, count=0)
