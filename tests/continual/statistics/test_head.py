"""Class means that grow."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from continual.seeding import generator
from continual.statistics.fields import check
from continual.statistics.head import Prototypes, updated


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


def test_counts_of_another_shape_than_the_means_are_refused() -> None:
    with pytest.raises(ValueError, match=r"mean is of shape \(2, 3, 4\), and count of \(1, 3\)"):
        check(Prototypes(torch.zeros(2, 3, 4), torch.ones(1, 3, dtype=torch.int64)), 3)
