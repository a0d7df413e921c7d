"""Flips between two models, against ten images counted by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from continual.metrics.flips import flips

TRUTH = [0] * 10
OLD = [0, 0, 0, 0, 0, 0, 1, 1, 2, 1]  # right: the first six
NEW = [0, 0, 0, 0, 1, 2, 0, 0, 2, 2]  # breaks two, mends two, one wrong as before, one wrong in another way

answers = st.integers(1, 30).flatmap(
    lambda n: st.tuples(*[st.lists(st.integers(0, 2), min_size=n, max_size=n) for _ in range(3)])
)


def test_by_hand() -> None:
    found = flips(OLD, NEW, TRUTH)
    assert (found.negative, found.positive, found.inconsistency) == (0.2, 0.2, 0.3)
    assert found.backward_trust == pytest.approx(4 / 6)
    assert found.relative_negative == pytest.approx(0.2 / (0.6 * 0.4))
    assert flips(list("ab"), list("aa"), list("ab")).negative == 0.5


@given(answers)
def test_identities_and_bounds(three: tuple[list[int], list[int], list[int]]) -> None:
    old, new, truth = (np.array(x) for x in three)
    found = flips(old, new, truth)
    was, now = (old == truth).mean(), (new == truth).mean()
    assert now == pytest.approx(was + found.positive - found.negative, abs=1e-12)
    assert found.negative <= min(was, 1 - now) + 1e-12
    assert found.negative <= found.inconsistency <= 1 - now + 1e-12
    if found.backward_trust is not None:
        assert found.backward_trust == pytest.approx(1 - found.negative / was)
    shuffled = np.random.default_rng(0).permutation(len(truth))
    assert flips(old[shuffled], new[shuffled], truth[shuffled]) == found


@given(answers)
def test_a_model_does_not_flip_against_itself(three: tuple[list[int], list[int], list[int]]) -> None:
    old, _, truth = three
    found = flips(old, old, truth)
    assert (found.negative, found.positive, found.inconsistency) == (0, 0, 0)
    assert found.backward_trust in (1, None)


def test_what_is_not_defined_is_none() -> None:
    assert flips([1], [0], [0]).backward_trust is None
    assert flips([1], [0], [0]).relative_negative is None


@pytest.mark.parametrize("bad", [([], [], []), ([0], [0, 1], [0, 1]), ([[0]], [[0]], [[0]]), ([0, 1], [0], [0])])
def test_answers_that_do_not_match_are_refused(bad: tuple[list[int], list[int], list[int]]) -> None:
    with pytest.raises(ValueError, match="one answer of each model"):
        flips(*bad)
