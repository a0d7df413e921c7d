"""Features of a data set, and class means that grow."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import TensorDataset

from continual.errors import LearningError
from continual.learning.extractor import extract
from continual.seeding import generator
from continual.statistics.prototypes import Prototypes, updated


@given(parts=st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=6), min_size=1, max_size=4))
def test_means_of_parts_are_the_means_of_the_whole(parts: list[list[int]]) -> None:
    classes: list[int] = []  # in the order in which they appear
    found = None
    rows, targets = [], []
    for i, part in enumerate(parts):
        classes += sorted(set(part) - set(classes))
        rows.append(torch.randn(len(part), 3, generator=generator(i)))
        targets.append(torch.tensor([classes.index(label) for label in part]))
        found = updated(found, rows[-1], targets[-1], len(classes))
    every, target = torch.cat(rows), torch.cat(targets)
    assert found is not None
    assert found.count.tolist() == torch.bincount(target).tolist()
    for c in range(len(classes)):
        torch.testing.assert_close(found.mean[c], every[target == c].mean(0))


def test_the_means_given_are_not_written() -> None:
    means, counts = torch.ones(1, 2), torch.tensor([3])
    updated(Prototypes(means, counts), torch.zeros(2, 2), torch.tensor([0, 1]), 2)
    assert torch.equal(means, torch.ones(1, 2))
    assert counts.tolist() == [3]


def test_extract_joins_batches_in_order() -> None:
    data = TensorDataset(torch.arange(5.0)[:, None], torch.tensor([4, 3, 2, 1, 0]))
    calls: list[tuple[str, int, int]] = []

    def compute(images: Tensor, labels: object) -> list[Tensor]:
        assert not torch.is_grad_enabled()
        return [images, 2 * images]

    (once, twice), labels = extract(
        data, compute, batch_size=2, device=torch.device("cpu"), progress=lambda *a: calls.append(a[:3])
    )
    assert once.flatten().tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(twice, 2 * once)
    assert labels == [4, 3, 2, 1, 0]
    assert calls == [("collecting features", n, 5) for n in (2, 4, 5)]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_features_that_are_not_finite_are_refused(bad: float) -> None:
    data = TensorDataset(torch.zeros(2, 1), torch.zeros(2))
    with pytest.raises(LearningError, match="NaN or infinite"):
        extract(data, lambda x, _: [x, x + bad], batch_size=2, device=torch.device("cpu"))
