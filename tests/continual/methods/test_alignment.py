"""Alignment improves a head on the classes it has statistics of, and changes nothing it was given."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, linear

from continual.methods.bases.alignment import align
from continual.seeding import generator
from continual.statistics.class_statistics import ClassStatistics, fit

WIDTH, CLASSES = 6, 4


def class_features(count: int, seed: int) -> Tensor:
    centres = 2 * torch.randn(CLASSES, 1, WIDTH, generator=generator(0, "centres"))
    return centres + 0.3 * torch.randn(CLASSES, count, WIDTH, generator=generator(seed, "noise"))


@pytest.fixture
def head() -> tuple[Tensor, Tensor]:
    return 0.02 * torch.randn(CLASSES, WIDTH, generator=generator(1)), torch.zeros(CLASSES)


@pytest.fixture
def statistics() -> list[ClassStatistics]:
    return [fit(rows) for rows in class_features(20, 1)]


def test_it_improves_the_head(head: tuple[Tensor, Tensor], statistics: list[ClassStatistics]) -> None:
    features, labels = class_features(50, 2).flatten(0, 1), torch.arange(CLASSES).repeat_interleave(50)
    before = cross_entropy(linear(features, *head), labels)
    aligned = align(*head, statistics, generator=generator(0), epochs=5, batch_size=8, lr=0.05)
    after = cross_entropy(linear(features, *aligned), labels)
    assert after < 0.5 * before
    assert (linear(features, *aligned).argmax(1) == labels).float().mean() > 0.95


def test_it_changes_nothing_it_was_given(head: tuple[Tensor, Tensor], statistics: list[ClassStatistics]) -> None:
    copies = [t.clone() for t in head]
    tensors = [t.clone() for s in statistics for t in s.tensors().values()]
    with torch.no_grad():  # it asks for the gradients it needs
        aligned = align(*head, statistics, generator=generator(0), epochs=2, batch_size=4)
    assert all(torch.equal(a, b) for a, b in zip(copies, head, strict=True))
    assert all(
        torch.equal(a, b) for a, b in zip(tensors, [t for s in statistics for t in s.tensors().values()], strict=True)
    )
    assert not any(torch.equal(a, b) for a, b in zip(aligned, head, strict=True))
    assert not any(t.requires_grad for t in (*head, *aligned))


def test_the_generator_decides_everything(head: tuple[Tensor, Tensor], statistics: list[ClassStatistics]) -> None:
    def aligned(seed: int) -> Tensor:
        return align(*head, statistics, generator=generator(seed), epochs=2, batch_size=4)[0]

    assert torch.equal(aligned(0), aligned(0))
    assert not torch.equal(aligned(0), aligned(1))


def test_no_epochs_leave_the_head(head: tuple[Tensor, Tensor], statistics: list[ClassStatistics]) -> None:
    aligned = align(*head, statistics, generator=generator(0), epochs=0)
    assert all(torch.equal(a, b) for a, b in zip(aligned, head, strict=True))


def test_every_class_needs_statistics(head: tuple[Tensor, Tensor], statistics: list[ClassStatistics]) -> None:
    with pytest.raises(ValueError, match="4 head rows but statistics of 3 classes"):
        align(*head, statistics[:3], generator=generator(0))
