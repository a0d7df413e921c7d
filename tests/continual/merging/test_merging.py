"""The algebra of merging, and that merging writes only where it says."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from continual.merging.base import effective_alpha, merge, merge_, merged, merged_before
from continual.seeding import generator

Stack = dict[str, Tensor]
alphas = st.floats(0, 1)


def stack(seed: int) -> Stack:
    return {name: torch.randn(3, 2, generator=generator(seed, name)) for name in ("down", "up")}


def close(a: Stack, b: Stack) -> None:
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name])


def same(a: Stack, b: Stack) -> None:
    assert all(torch.equal(a[name], b[name]) for name in a)


@given(alpha=alphas)
def test_merging_is_a_step_of_the_way_to_the_anchor(alpha: float) -> None:
    a, anchor = stack(0), stack(1)
    close(merge(a, anchor, alpha), {name: (1 - alpha) * a[name] + alpha * anchor[name] for name in a})
    same(a, stack(0))
    same(anchor, stack(1))


def test_no_merging_and_full_merging() -> None:
    same(merge(stack(0), stack(1), 0.0), stack(0))
    close(merge(stack(0), stack(1), 1.0), stack(1))


@given(alpha=alphas)
def test_a_stack_on_its_anchor_stays(alpha: float) -> None:
    close(merge(stack(0), stack(0), alpha), stack(0))


@given(alpha=alphas, merges=st.integers(0, 15))
def test_merges_in_a_row_are_one_merge_of_the_effective_strength(alpha: float, merges: int) -> None:
    many, anchor = stack(0), stack(1)
    for _ in range(merges):
        many = merge(many, anchor, alpha)
    close(many, merge(stack(0), anchor, effective_alpha(alpha, merges)))


def test_the_published_code_merges_seven_times_as_strongly_as_the_paper() -> None:
    assert effective_alpha(0.1, 13) == pytest.approx(1 - 0.9**13)
    assert effective_alpha(0.1, 1) == pytest.approx(0.1)


def test_the_in_place_form_writes_the_same_numbers_into_the_same_tensors() -> None:
    live, anchor = stack(0), stack(1)
    tensors = list(live.values())
    merge_(live, dict(reversed(anchor.items())), 0.3)  # names decide, not their order
    close(live, merge(stack(0), anchor, 0.3))
    assert all(a is b for a, b in zip(tensors, live.values(), strict=True))
    same(anchor, stack(1))


@given(order=st.permutations(range(4)))
def test_the_mean_does_not_depend_on_the_order(order: list[int]) -> None:
    close(merged("mean", [stack(k) for k in order]), merged("mean", [stack(k) for k in range(4)]))


def test_the_mean_of_one_is_itself_and_of_none_an_error() -> None:
    same(merged("mean", [stack(0)]), stack(0))
    with pytest.raises(ValueError, match="at least one that is finished"):
        merged("mean", [])


def test_consolidation_gives_each_stack_the_mean_of_those_before_it() -> None:
    stacks = [stack(k) for k in range(4)]
    consolidated = merged_before("mean", stacks)
    same(consolidated[0], stack(0))
    for k in range(1, 4):
        close(consolidated[k], merged("mean", [stack(j) for j in range(k)]))
    for k in range(4):
        same(stacks[k], stack(k))
    assert merged_before("mean", []) == []


@given(decay=st.floats(0, 1))
def test_a_moving_average_counts_each_adapter_as_its_formula_says(decay: float) -> None:
    bank = [stack(k) for k in range(3)]
    weights = torch.tensor([decay**2, decay * (1 - decay), 1 - decay])
    joined = {name: torch.stack([adapter[name] for adapter in bank]) for name in bank[0]}
    formula = {name: torch.einsum("t,tij->ij", weights, adapters) for name, adapters in joined.items()}
    close(merged("ema", bank, decay=decay), formula)
