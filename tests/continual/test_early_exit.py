"""Retrieval that stops early: what it skips, what it answers, and what decides that it is sure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import continual
from continual.backbones import Backbone
from continual.class_statistics import Diagonal
from continual.early_exit import least_margin
from continual.errors import InputError
from continual.methods.mos import MOSLearner
from continual.retrieval import Answering, ensemble, margins
from continual.seeding import generator
from continual.stack_features import StackFeatures

Blobs = Callable[..., tuple[Tensor, list[int]]]


@pytest.fixture
def learner(backbone: Backbone, blobs: Blobs) -> MOSLearner:
    learner = MOSLearner(backbone, epochs=4, batch_size=4, lr=0.1, bottleneck=4, alignment_epochs=4)
    for classes in ([0, 1], [2, 3], [4, 5]):
        learner.learn(*blobs(classes, 4))
    return learner


@pytest.fixture
def images() -> Tensor:
    """Noise, of which some is refined."""
    return torch.rand(60, 3, 16, 16, generator=generator(0, "images"))


def passes(learner: MOSLearner, images: Tensor) -> tuple[Any, int]:
    """Return the scores, and how many times an image was run through the blocks."""
    rows: list[int] = []
    hook = learner.backbone.trunk.vit.norm.register_forward_hook(lambda *call: rows.append(len(call[-1])))
    try:
        return learner.score_batch(images), sum(rows)
    finally:
        hook.remove()


def test_sure_images_take_one_pass_and_the_others_the_whole_way(learner: MOSLearner, images: Tensor) -> None:
    exact, all_of_them = passes(learner, images)
    early = learner.variant(early_exit=0.1)
    answering = early.answering()
    with torch.no_grad():
        first = StackFeatures(early, images).first
        foretold, _ = answering.foretold(first, early._shifts())
    # As if the draws had asked for so much that half of the images are sure.
    early.state.least_margins[0.1, 4, True] = float(margins(foretold).median())
    sure = margins(foretold) >= early._least_margin(answering)
    scores, fewer = passes(early, images)
    torch.testing.assert_close(scores.values[sure], foretold[sure])
    torch.testing.assert_close(scores.values[~sure], exact.values[~sure], atol=1e-5, rtol=1e-4)
    for name in ("stack", "first_stack", "refinements"):
        assert torch.equal(getattr(scores, name)[~sure], getattr(exact, name)[~sure])
    torch.testing.assert_close(scores.familiarity[~sure], exact.familiarity[~sure])
    unsure = exact.refinements[~sure] + (exact.first_stack[~sure] > 0)
    assert len(images) < fewer <= len(images) + int(unsure.sum()) < all_of_them


def test_it_is_off_by_default_and_an_image_does_not_depend_on_the_others(learner: MOSLearner, images: Tensor) -> None:
    assert learner.settings.early_exit is None
    early = learner.variant(early_exit=0.1)
    whole = early.score_batch(images).values
    torch.testing.assert_close(torch.cat([early.score_batch(i[None]).values for i in images]), whole)


def test_shifts_are_remembered_and_kept_in_the_file(learner: MOSLearner, blobs: Blobs, tmp_path: Path) -> None:
    state = learner.state
    assert [shift.count for shift in state.shifts] == [8, 8, 8]
    assert not state.shifts[0].mean.any()
    assert state.prototypes is not None
    own = torch.stack([state.statistics[c].mean - state.prototypes[c] for c in (2, 3)])
    torch.testing.assert_close(state.shifts[1].mean, own.mean(0), atol=1e-6, rtol=1e-4)
    learner.variant(early_exit=0.1).save(tmp_path / "m.safetensors", embed_backbone=True)
    again = continual.load(tmp_path / "m.safetensors")
    images = torch.rand(4, 3, 16, 16)
    assert torch.equal(again.score_batch(images).values, learner.variant(early_exit=0.1).score_batch(images).values)


def test_a_model_of_before_is_told_apart(learner: MOSLearner, images: Tensor, blobs: Blobs) -> None:
    old = learner.variant(early_exit=0.1)
    old.state = replace(learner.state, shifts=())
    with pytest.raises(InputError, match="was learned before early_exit was known: leave it out, or learn anew"):
        old.score_batch(images)
    old.variant(early_exit=None).learn(*blobs([6], 2))
    with pytest.raises(InputError, match="leave consolidate out"):
        learner.variant(early_exit=0.1, consolidate="mean")


def answering_of(classes: int, width: int) -> tuple[Answering, list[Diagonal]]:
    draw = generator(0, "classes")
    means = 3 * torch.randn(classes, width, generator=draw)
    head = (torch.randn(classes, width, generator=draw) + means, torch.zeros(classes))
    own = torch.arange(classes) % 3

    def combine(logits: Tensor, cosines: Tensor) -> Tensor:
        return ensemble(logits, cosines, 3) / 2

    return Answering(head, means, own, 4, combine), [Diagonal(5, mean, torch.ones(width)) for mean in means]


def test_the_wider_shifts_spread_the_wider_the_lead_must_be() -> None:
    answering, statistics = answering_of(9, 6)

    def least(spread: float, tolerance: float) -> float:
        shifts = [Diagonal(9, torch.full((6,), 0.1 * k), torch.full((6,), spread)) for k in range(3)]
        return least_margin(answering, statistics, shifts, tolerance, generator(1), floor=1e-9)

    assert least(0.0, 0.0) < least(0.1, 0.0) < least(8.0, 0.0)
    assert least(0.5, 0.01) < least(2.0, 0.01) < least(8.0, 0.01)
    assert least(8.0, 0.05) < least(8.0, 0.02) < least(8.0, 0.01)
    assert least(2.0, 0.01) == least(2.0, 0.01)


def test_margins() -> None:
    assert margins(torch.tensor([[0.5, 0.2, 0.3], [0.1, 0.1, 0.8]])).tolist() == pytest.approx([0.2, 0.7])
    assert margins(torch.tensor([[1.0]])).tolist() == [float("inf")]
