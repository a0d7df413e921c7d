"""An experience larger than a block: nothing is lost in the sums, a sample is held, and small ones are as they were."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import pytest
import torch
from torch import Tensor

from continual.backbones.loading import Backbone
from continual.learning import streaming
from continual.learning.learner import IncrementalLearner
from continual.learning.streaming import Block, Reading, streamed
from continual.methods import method
from continual.seeding import generator

Blobs = Callable[..., tuple[Tensor, list[int]]]
TRAINED: dict[str, Any] = {"epochs": 1, "batch_size": 16, "bottleneck": 2}
#: methods with what makes them quick, and the parts of their states that are sums over all images
METHODS: dict[str, tuple[str, dict[str, Any]]] = {
    "ridge": ("ridge", {}),
    "ridge, exact": ("ridge", {"exact_forget": 12}),
    "strata": ("strata", {}),
    "strata, unbalanced": ("strata", {"balance": 0}),
    "strata, one view": ("strata", {"mirror": False}),
    "ranpac": ("ranpac", {"epochs": 0, "projection": 30}),
    "simple_cil": ("simple_cil", {}),
    "simple_cil, orbit": ("simple_cil", {"group": "C2", "orbit_statistics": True}),
    "aper": ("aper", TRAINED),
    "ease": ("ease", TRAINED),
    "mos": ("mos", {**TRAINED, "alignment_epochs": 1, "statistics": "full"}),
    "mos, low rank": ("mos", {**TRAINED, "alignment_epochs": 1}),
    "slca": ("slca", {"epochs": 1, "batch_size": 16, "alignment_epochs": 1, "statistics": "diagonal"}),
}


def numbers(count: int, classes: int, copies: int = 1) -> tuple[Reading, Tensor]:
    """Return a reading of rows 0, 1, 2, … in batches of 5, and their labels."""
    labels = torch.randint(classes, (count,), generator=torch.Generator().manual_seed(0)).repeat_interleave(copies)

    def batches(order: Sequence[int] | None) -> Iterator[Block]:
        rows = torch.arange(len(labels)) if order is None else torch.tensor(order)
        for part in rows.split(5):
            yield [part[:, None].float(), -part[:, None].float()], labels[part]

    return Reading(batches, labels, copies, classes), labels


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two columns of one number a row: blocks of 7 images."""
    monkeypatch.setattr(streaming, "LEAST", 1)
    monkeypatch.setattr(streaming, "FEATURES", 14)


def read(reading: Reading, **options: Any) -> tuple[list[Block], streaming.Held]:
    blocks: list[Block] = []

    def fold(columns: list[Tensor], labels: Tensor) -> list[Tensor]:
        blocks.append((columns, labels))
        return columns

    return blocks, streamed(reading, fold, generator(1, "held images"), **options)


def test_what_fits_is_one_block_and_held_whole() -> None:
    reading, labels = numbers(31, 3)
    ((columns, own),), held = read(reading, by_class=True)
    assert torch.equal(own, labels)
    assert columns[0].flatten().tolist() == [*range(31)]
    assert held.stands_for == 1
    assert torch.equal(held.columns[1], columns[1])
    assert torch.equal(held.labels, labels)


@pytest.mark.usefixtures("small_blocks")
@pytest.mark.parametrize("count", [8, 20, 21, 22, 40])
def test_every_row_comes_once_in_order_and_a_sample_is_held(count: int) -> None:
    reading, labels = numbers(count, 3)
    blocks, held = read(reading)
    assert [len(own) for _, own in blocks] == [7] * (count // 7) + [count % 7] * (count % 7 > 0)
    assert torch.cat([columns[0] for columns, _ in blocks]).flatten().tolist() == [*range(count)]
    rows = held.columns[0].flatten().long()
    assert len(rows) == 7
    assert rows.tolist() == sorted({*rows.tolist()})
    assert held.stands_for == count / 7
    assert torch.equal(held.labels, labels[rows])
    assert torch.equal(held.columns[1], -held.columns[0])
    assert torch.equal(read(reading)[1].columns[0], held.columns[0])


@pytest.mark.usefixtures("small_blocks")
def test_every_image_is_as_likely_to_be_held() -> None:
    reading, _ = numbers(28, 3)
    drawn = torch.zeros(28)
    for seed in range(400):
        drawn[streamed(reading, lambda c, _: c, generator(seed, "held images")).columns[0].flatten().long()] += 1
    assert drawn.min() > 70
    assert drawn.max() < 135


@pytest.mark.usefixtures("small_blocks")
def test_by_class_a_class_lies_in_one_block_unless_it_is_larger() -> None:
    reading, labels = numbers(60, 12)
    reading = reading._replace(labels=labels.clone().clamp(min=3))

    def batches(order: Sequence[int] | None) -> Iterator[Block]:
        rows = torch.arange(60) if order is None else torch.tensor(order)
        for part in rows.split(5):
            yield [part[:, None].float()] * 2, reading.labels[part]

    blocks, held = read(reading._replace(batches=batches), by_class=True)
    assert all(len(own) <= 7 for _, own in blocks)
    assert torch.equal(torch.cat([own for _, own in blocks]), reading.labels.sort(stable=True).values)
    sizes = reading.labels.bincount()
    for label in (sizes[:12] <= 7).nonzero().flatten().tolist():
        assert sum(label in own for _, own in blocks) <= 1
    assert torch.equal(held.labels, reading.labels[held.columns[0].flatten().long()])


@pytest.mark.usefixtures("small_blocks")
def test_copies_of_an_image_stay_together() -> None:
    reading, _ = numbers(20, 3, copies=2)
    blocks, held = read(reading)
    assert [len(own) for _, own in blocks] == [6] * 6 + [4]
    rows = held.columns[0].flatten().long().reshape(-1, 2)
    assert torch.equal(rows[:, 0] + 1, rows[:, 1])
    assert not (rows[:, 0] % 2).any()


def test_of_many_classes_fewer_are_held_than_a_block_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streaming, "LEAST", 2)
    monkeypatch.setattr(streaming, "VALUES", 40)
    ((_, own),), held = read(numbers(30, 8)[0])
    assert len(own) == 30
    assert len(held.labels) == 5
    assert held.stands_for == 6


# Methods -------------------------------------------------------------------------------------------------


def learned(name: str, backbone: Backbone, blobs: Blobs, **more: Any) -> IncrementalLearner[Any]:
    kind, settings = METHODS[name]
    learner = method(kind)(backbone, **{"eval_batch_size": 7, **settings, **more})
    learner.learn(*blobs([0, 1, 2], 12))
    images, labels = blobs([2, 3, 4, 5], 12, seed=1)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))
    learner.learn(images[order], [labels[row] for row in order.tolist()])
    return learner


def blocks_of(images: int, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have blocks of so many images, whatever the method reads of one."""
    monkeypatch.setattr(streaming, "LEAST", images)
    monkeypatch.setattr(streaming, "FEATURES", 1)


def sums_of(state: Any) -> dict[str, Tensor]:
    """Return what is summed over images: all but what follows from the sample that is held."""
    found = {}
    for part in ("sums", "prototypes", "shift_sums"):
        if is_dataclass(own := getattr(state, part, None)):
            found |= {f"{part}.{f.name}": getattr(own, f.name) for f in fields(own) if f.name != "scatter"}
    for number, own in enumerate(getattr(state, "statistics", ())):
        found |= {f"{number}.mean": own.mean, f"{number}.covariance": own.covariance_matrix()}
    return {name: tensor for name, tensor in found.items() if tensor is not None}


@pytest.mark.parametrize("name", METHODS)
def test_streamed_is_as_in_memory(name: str, backbone: Backbone, blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = learned(name, backbone, blobs)
    blocks_of(15, name, monkeypatch)
    parts = learned(name, backbone, blobs)
    expected, found = sums_of(whole.state), sums_of(parts.state)
    assert expected.keys() == found.keys()
    assert expected
    for key, tensor in expected.items():
        torch.testing.assert_close(found[key], tensor, rtol=1e-4, atol=1e-5, msg=f"{name}: {key}")
    asked = blobs([0, 1, 2, 3, 4, 5], 4, seed=2)[0]
    if "mos" not in name and "slca" not in name and name != "ranpac":  # their heads follow from chance draws too
        torch.testing.assert_close(
            parts.predict(asked).scores, whole.predict(asked).scores, rtol=1e-3, atol=1e-4, msg=name
        )
    # What is held stands for all images.
    for part in ("certainty", "temperature"):
        if (known := getattr(parts.state, part, None)) is not None:
            before = getattr(whole.state, part)
            torch.testing.assert_close(known.images, before.images, rtol=0.05, atol=0)  # balanced weights vary
            assert torch.isfinite(known.losses).all()
    probabilities = parts.predict(asked).probabilities
    if probabilities is not None:
        assert torch.isfinite(probabilities).all()


@pytest.mark.parametrize("name", ["strata", "ranpac", "simple_cil", "mos"])
def test_streamed_twice_gives_the_same_bits(
    name: str, backbone: Backbone, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks_of(15, name, monkeypatch)
    first, again = (learned(name, backbone, blobs).export()[0] for _ in range(2))
    assert all(torch.equal(again[key], tensor) for key, tensor in first.items())
    other = learned(name, backbone, blobs, seed=7).export()[0]
    assert any(not torch.equal(other[key], tensor) for key, tensor in first.items() if key in other)


def test_prototypes_have_the_same_bits_in_blocks(
    backbone: Backbone, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = learned("simple_cil", backbone, blobs)
    blocks_of(7, "simple_cil", monkeypatch)
    parts = learned("simple_cil", backbone, blobs)
    assert torch.equal(parts.state.prototypes.mean, whole.state.prototypes.mean)


def test_forgetting_stays_exact_in_blocks(backbone: Backbone, blobs: Blobs, monkeypatch: pytest.MonkeyPatch) -> None:
    blocks_of(15, "ridge", monkeypatch)
    settings: dict[str, Any] = {"exact_forget": 24, "eval_batch_size": 7}
    forgot, never = (method("ridge")(backbone, **settings) for _ in range(2))
    images, labels = blobs([0, 1, 2, 3], 12)
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(3))
    forgot.learn(images[order], [labels[row] for row in order.tolist()])
    forgot.forget(3)
    never.learn(*blobs([0, 1, 2], 12))
    torch.testing.assert_close(forgot.state.sums.gram(), never.state.sums.gram(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["strata", "mos"])
def test_corrections_and_later_experiences_work_in_blocks(
    name: str, backbone: Backbone, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
) -> None:
    blocks_of(15, name, monkeypatch)
    learner = learned(name, backbone, blobs)
    usual = getattr(learner.state, "certainty", None)
    learner.correct(blobs([5], 20, seed=4)[0], 5)
    if usual is not None:
        assert torch.equal(learner.state.certainty.images, usual.images)
    learner.learn(*blobs([6], 40, seed=5))
    found = learner.predict(blobs([6], 4, seed=6)[0])
    assert learner.classes[-1] == 6
    assert torch.isfinite(found.scores).all()
    if name == "strata":  # a head that was trained for one epoch may be wrong
        assert set(found.labels) == {6}
