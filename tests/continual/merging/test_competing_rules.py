"""TIES and PCB against the published functions, written down here as they are, and what both promise."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from continual.errors import InputError
from continual.merging import RULES
from continual.merging.base import merged
from continual.merging.pcb import clamped, to_unit
from continual.methods.mos.learner import MOSLearner
from continual.seeding import generator
from continual.testing import tiny_backbone

COMPETING = ("ties", "pcb", "pairwise")


def tasks(n: int, size: int = 3000, scale: float = 1.0, key: int = 0) -> Tensor:
    return scale * torch.randn(n, size, generator=generator(key, "tasks", n), dtype=torch.float64)


def official_normalise(x: Tensor) -> Tensor:
    least, _ = torch.min(x, dim=1, keepdim=True)
    largest, _ = torch.max(x, dim=1, keepdim=True)
    return (x - least) / (largest - least)


def official_clamp(x: Tensor, min_ratio: float, max_ratio: float) -> Tensor:
    d = x.size(1)
    ordered, _ = torch.sort(x, dim=1)
    least = ordered[:, int(d * min_ratio)].unsqueeze(1)
    largest = ordered[:, int(d * (1 - max_ratio) - 1)].unsqueeze(1)
    return torch.clamp(x, least, largest)


def official_pcb(checks: Tensor, ratio: float, *, pairwise: bool = False) -> Tensor:
    n = checks.shape[0]
    magnitudes = official_clamp(torch.abs(checks), min_ratio=0.0001, max_ratio=0.0001)
    intra = torch.exp(n * official_normalise(magnitudes) ** 2)
    if pairwise:
        signed = torch.sign(checks) * official_normalise(magnitudes)
        rows = []
        for i in range(n):
            rows.append(torch.tanh(signed[i] * signed).sum(0))
        inter = torch.stack(rows)
    else:
        inter = torch.tanh(checks * torch.sum(checks, dim=0))
    scale = official_normalise(official_clamp(intra * inter, 1 - ratio, 0))
    vectors = torch.sign(checks) * magnitudes
    return torch.sum(vectors * scale, dim=0) / torch.clamp(torch.sum(scale, dim=0), min=1e-12)


def official_ties(checks: Tensor, ratio: float) -> Tensor:
    _, d = checks.shape
    kth, _ = checks.abs().kthvalue(d - int(d * ratio), dim=1, keepdim=True)
    kept = checks * (checks.abs() >= kth)
    sign = torch.sign(kept.sum(dim=0))
    sign[sign == 0] = torch.sign(sign.sum())
    rows = torch.where(sign.unsqueeze(0) > 0, kept > 0, kept < 0)
    selected = kept * rows
    return torch.sum(selected, dim=0) / torch.clamp((selected != 0).sum(dim=0).float(), min=1)


@pytest.mark.parametrize("n", [2, 5, 20])
@pytest.mark.parametrize("scale", [0.01, 1.0, 10.0])
@pytest.mark.parametrize("ratio", [0.1, 0.2, 0.6])
def test_rules_give_the_numbers_of_the_published_functions(n: int, scale: float, ratio: float) -> None:
    given, zero = tasks(n, scale=scale), torch.zeros(3000, dtype=torch.float64)
    for name, published in (
        ("ties", official_ties(given, ratio)),
        ("pcb", official_pcb(given, ratio)),
        ("pairwise", official_pcb(given, ratio, pairwise=True)),
    ):
        assert float((RULES.get(name)(given, zero, ratio=ratio) - published).abs().max()) == 0, name


@pytest.mark.parametrize("name", COMPETING)
def test_what_is_merged_are_differences_from_the_start(name: str) -> None:
    rule, given, start = RULES.get(name), tasks(4, 200), tasks(1, 200, key=7)[0]
    torch.testing.assert_close(rule(given + start, start) - start, rule(given, torch.zeros_like(start)))
    half = rule(given + start, start, strength=0.5)
    torch.testing.assert_close(half - start, (rule(given + start, start) - start) / 2)


@given(order=st.permutations(range(4)))
def test_the_order_of_adapters_does_not_matter(order: list[int]) -> None:
    given, zero = tasks(4, 300), torch.zeros(300, dtype=torch.float64)
    for name in COMPETING:
        torch.testing.assert_close(RULES.get(name)(given[order], zero), RULES.get(name)(given, zero))


@pytest.mark.parametrize("name", ["pcb", "pairwise"])
def test_a_coordinate_lies_among_those_of_the_adapters_or_stays(name: str) -> None:
    given, strengths = tasks(5), [0.5, 0.8, 1.0, 1.2, 2.0]
    magnitudes = clamped(given.abs(), 1e-4, 1e-4)
    task = given.sign() * magnitudes * torch.tensor(strengths)[:, None]
    found = RULES.get(name)(given, torch.zeros(3000, dtype=torch.float64), strength=strengths)
    inside = (found >= task.amin(0) - 1e-9) & (found <= task.amax(0) + 1e-9)
    assert bool((inside | (found == 0)).all())
    assert bool((found == 0).any())


@pytest.mark.parametrize("name", COMPETING)
def test_who_stands_alone_at_a_contested_coordinate_is_outvoted(name: str) -> None:
    given = tasks(4, 50, 0.01)
    given[:, 0] = torch.tensor([1.0, 1.0, 1.0, -0.9])
    found = RULES.get(name)(given, torch.zeros(50, dtype=torch.float64))
    expected = clamped(given.abs(), 1e-4, 1e-4)[:3, 0].mean() if name != "ties" else 1.0
    assert float(found[0]) == pytest.approx(float(expected))
    assert RULES.get("mean")(given, None)[0] < 0.6


@pytest.mark.parametrize("name", COMPETING)
def test_one_adapter_alone_stays_as_it_is(name: str) -> None:
    alone = tasks(1, 40)
    assert torch.equal(RULES.get(name)(alone, torch.ones(40, dtype=torch.float64)), alone[0])


@pytest.mark.parametrize("name", COMPETING)
@pytest.mark.parametrize(("n", "size"), [(2, 1), (3, 4), (800, 20)])
def test_few_numbers_and_many_adapters_merge_to_something_finite(name: str, n: int, size: int) -> None:
    found = RULES.get(name)(tasks(n, size).float(), torch.zeros(size))
    assert bool(torch.isfinite(found).all())
    assert found.dtype == torch.float32
    equal = torch.ones(n, size) / 2
    torch.testing.assert_close(RULES.get(name)(equal, torch.zeros(size)), equal[0])


def test_rows_of_equal_numbers_count_alike() -> None:
    assert torch.equal(to_unit(torch.tensor([[3.0, 3.0], [1.0, 2.0]])), torch.tensor([[1.0, 1.0], [0.0, 1.0]]))


def test_settings_that_a_rule_does_not_have_are_refused_by_name() -> None:
    stacks = [{"w": torch.ones(4)}, {"w": torch.zeros(4)}]
    with pytest.raises(InputError, match="pcb has no setting 'ration': did you mean 'ratio'"):
        merged("pcb", stacks, ration=0.1)
    with pytest.raises(InputError, match="mean has no setting 'ratio': it has none"):
        merged("mean", stacks, ratio=0.1)
    for ratio in (0.0, 1.5):
        with pytest.raises(InputError, match="no share of an adapter's numbers"):
            merged("ties", stacks, ratio=ratio)
    with pytest.raises(InputError, match="3 strengths for 2 adapters"):
        merged("pcb", stacks, strength=[1.0, 1.0, 1.0])
    with pytest.raises(InputError, match="pcb has no setting 'ration'"):
        MOSLearner(tiny_backbone(), anchor="pcb", anchor_args={"ration": 0.1})
    with pytest.raises(InputError, match="unknown merge rule 'pbc': did you mean 'pcb'"):
        MOSLearner(tiny_backbone(), anchor="pbc")
