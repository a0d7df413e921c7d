"""Losses that keep answers: nothing where nothing has changed, and fewer flips the more they weigh."""

from __future__ import annotations

from typing import get_args

import pytest
import torch
from torch import Tensor

from continual import MOSLearner
from continual.methods.bases.alignment import AlignmentSettings
from continual.methods.bases.compatibility import Kind, divergence, kept_answers
from continual.testing import coloured_squares, tiny_backbone

KINDS = get_args(Kind)


def logits(classes: int, seed: int) -> Tensor:
    return torch.randn(40, classes, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_answers_lose_nothing_and_only_the_new_model_learns(kind: Kind) -> None:
    old, targets = logits(3, 0).requires_grad_(), torch.arange(40) % 3
    student = torch.cat([old.detach(), logits(2, 1)], 1).requires_grad_()
    assert float(kept_answers(kind, old, student.detach(), student, targets).detach()) == pytest.approx(0, abs=1e-6)
    moved = logits(5, 2).requires_grad_()
    kept_answers(kind, old, student, moved, targets).backward()
    assert old.grad is None
    assert student.grad is None
    assert moved.grad is not None
    assert kept_answers(kind, old[:0], student[:0], moved[:0], targets[:0]) == 0


def test_the_three_masks() -> None:
    old, new, student, targets = logits(3, 0), logits(5, 1), logits(5, 2), torch.arange(40) % 3
    each = divergence(old, student)
    assert (each > 0).all()
    assert torch.allclose(each / 4, (torch.softmax(old / 2, 1) * (
        torch.log_softmax(old / 2, 1) - torch.log_softmax(student[:, :3] / 2, 1))).sum(1), atol=1e-6)  # fmt: skip
    right, wrong = old.argmax(1) == targets, student.argmax(1) != targets
    given = (old, new, student, targets)
    assert torch.isclose(kept_answers("plain", *given), each.mean())
    assert torch.isclose(kept_answers("focal", *given), (each * torch.where(right, 6.0, 1.0)).mean())
    muscle = torch.where(wrong, each, divergence(new, student)).mean()
    assert torch.isclose(kept_answers("muscle", *given), muscle)


@pytest.mark.parametrize("kind", KINDS)
def test_the_aligned_head_stays_nearer_to_the_one_before(kind: Kind) -> None:
    """Two experiences of a stream that is alike but for the weight: 0 changes no bit, more keeps more."""
    images, labels = coloured_squares(range(4), 8)

    def head(**settings: object) -> tuple[Tensor, Tensor]:
        learner = MOSLearner(tiny_backbone(), epochs=1, batch_size=8, bottleneck=4, alignment_epochs=6, **settings)
        learner.learn(images[:16], labels[:16])
        before = learner.state
        learner.learn(images[16:], labels[16:])
        assert before.head is not None
        assert learner.state.head is not None
        rows = torch.stack([own.mean for own in before.statistics])
        return divergence(before.head(rows), learner.state.head(rows)), learner.state.head.weight

    plain, kept = head(), head(keep_answers=3.0, keep_answers_by=kind)
    assert torch.equal(plain[1], head(keep_answers=0.0, keep_answers_by=kind)[1])
    assert not torch.equal(plain[1], kept[1])
    if kind == "plain":
        assert kept[0].mean() < plain[0].mean()


def test_a_model_that_exists_may_be_given_it() -> None:
    assert {"keep_answers", "keep_answers_by"} <= AlignmentSettings.at_training
