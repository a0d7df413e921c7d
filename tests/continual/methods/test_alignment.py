"""Alignment improves a head on the classes it has statistics of, and changes nothing it was given."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from continual.methods.bases.alignment import AlignmentSettings, align
from continual.seeding import generator
from continual.statistics.class_statistics import ClassStatistics, fit
from continual.statistics.fields import pack
from continual.statistics.head import Head

WIDTH, CLASSES = 6, 4


def class_features(count: int, seed: int) -> Tensor:
    centres = 2 * torch.randn(CLASSES, 1, WIDTH, generator=generator(0, "centres"))
    return centres + 0.3 * torch.randn(CLASSES, count, WIDTH, generator=generator(seed, "noise"))


def pairs(one: Head, other: Head) -> list[tuple[Tensor, Tensor]]:
    return [(one.weight, other.weight), (one.bias, other.bias)]


@pytest.fixture
def head() -> Head:
    return Head(0.02 * torch.randn(CLASSES, WIDTH, generator=generator(1)), torch.zeros(CLASSES))


@pytest.fixture
def statistics() -> list[ClassStatistics]:
    return [fit(rows) for rows in class_features(20, 1)]


def test_it_improves_the_head(head: Head, statistics: list[ClassStatistics]) -> None:
    features, labels = class_features(50, 2).flatten(0, 1), torch.arange(CLASSES).repeat_interleave(50)
    before = cross_entropy(head(features), labels)
    aligned = align(
        head, statistics, AlignmentSettings(alignment_epochs=5, batch_size=8, alignment_lr=0.05), generator=generator(0)
    )
    after = cross_entropy(aligned(features), labels)
    assert after < 0.5 * before
    assert (aligned(features).argmax(1) == labels).float().mean() > 0.95


def test_it_changes_nothing_it_was_given(head: Head, statistics: list[ClassStatistics]) -> None:
    copies = [t.clone() for t in pack(head)[0].values()]
    tensors = [t.clone() for s in statistics for t in pack(s)[0].values()]
    with torch.no_grad():  # it asks for the gradients it needs
        aligned = align(head, statistics, AlignmentSettings(alignment_epochs=2, batch_size=4), generator=generator(0))
    assert all(torch.equal(a, b) for a, b in zip(copies, pack(head)[0].values(), strict=True))
    now = [t for s in statistics for t in pack(s)[0].values()]
    assert all(torch.equal(a, b) for a, b in zip(tensors, now, strict=True))
    assert not any(torch.equal(a, b) for a, b in pairs(aligned, head))
    assert not any(t.requires_grad for pair in pairs(aligned, head) for t in pair)


def test_every_class_weighs_alike_however_many_images_it_has(head: Head) -> None:
    """As many features are drawn of each, and none counts for more: counts alone change nothing."""
    rows = class_features(20, 1)
    even = [fit(own) for own in rows]
    uneven = [replace(known, count=count) for known, count in zip(even, (2, 500, 20, 3), strict=True)]
    settings = AlignmentSettings(alignment_epochs=2, batch_size=4)
    first, second = (align(head, known, settings, generator=generator(0)) for known in (even, uneven))
    assert all(torch.equal(a, b) for a, b in pairs(first, second))


def test_the_generator_decides_everything(head: Head, statistics: list[ClassStatistics]) -> None:
    def aligned(seed: int) -> Tensor:
        return align(
            head, statistics, AlignmentSettings(alignment_epochs=2, batch_size=4), generator=generator(seed)
        ).weight

    assert torch.equal(aligned(0), aligned(0))
    assert not torch.equal(aligned(0), aligned(1))


def test_no_epochs_leave_the_head(head: Head, statistics: list[ClassStatistics]) -> None:
    aligned = align(head, statistics, AlignmentSettings(alignment_epochs=0), generator=generator(0))
    assert all(torch.equal(a, b) for a, b in pairs(aligned, head))


def test_every_class_needs_statistics(head: Head, statistics: list[ClassStatistics]) -> None:
    with pytest.raises(ValueError, match="4 head rows but statistics of 3 classes"):
        align(head, statistics[:3], generator=generator(0))
