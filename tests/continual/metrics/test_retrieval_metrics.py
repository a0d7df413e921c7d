"""Counts of right and chosen."""

from __future__ import annotations

import pytest

from continual.metrics.retrieval import confusion, share_right


def test_by_hand() -> None:
    table = confusion([0, 0, 1, 2, 2, 2], [0, 1, 1, 2, 0, 2], 4)
    assert table.tolist() == [[1, 1, 0, 0], [0, 1, 0, 0], [1, 0, 2, 0], [0, 0, 0, 0]]
    assert share_right(table) == pytest.approx(4 / 6)
    assert share_right(confusion([], [], 2)) is None


@pytest.mark.parametrize(("right", "chosen"), [([0], [3]), ([-1], [0]), ([3], [0])])
def test_what_lies_outside_the_table_is_refused(right: list[int], chosen: list[int]) -> None:
    with pytest.raises(ValueError, match="0 to 2"):
        confusion(right, chosen, 3)


def test_lengths_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="one choice"):
        confusion([0, 1], [0], 3)
