"""Losses that keep answers: nothing where nothing has changed, and fewer flips the more they weigh."""

from __future__ import annotations

from typing import Any, get_args

import pytest
import torch
from torch import Tensor

from continual import MOSLearner
from continual.methods import methods
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


@pytest.mark.parametrize("name", methods())
def test_a_model_that_exists_may_be_given_what_any_part_of_its_settings_allows(name: str) -> None:
    """Settings of adapters and of alignment together allow what each of them does."""
    settings = methods()[name].settings_type
    for allowed in ("at_training", "at_inference", "of_features"):
        for part in settings.__mro__:
            assert getattr(part, allowed, frozenset()) <= getattr(settings, allowed), (part, allowed)
    assert ("keep_answers" in settings.model_fields) <= ("keep_answers" in settings.at_training)


BY_RIDGE = {"stage_one": "ridge"}
HEEDING = [
    *((name, {}) for name in methods()),
    ("mos", BY_RIDGE),
    ("mos", {**BY_RIDGE, "within": 1.0}),
    ("mos", {"alignment_epochs": 0}),
    ("slca", {"alignment_epochs": 0}),
]


@pytest.mark.parametrize(("name", "own"), HEEDING, ids=str)
def test_a_learner_heeds_it_where_it_changes_answers(name: str, own: dict[str, Any]) -> None:
    kind, quick = (
        methods()[name],
        {"epochs": 1, "batch_size": 8, "bottleneck": 4, "alignment_epochs": 6, "sharpness": 2},
    )
    known = kind.settings_type.model_fields
    learner = kind(tiny_backbone(), **{key: value for key, value in {**quick, **own}.items() if key in known})
    if "keep_answers" not in known:
        assert not learner.heeds_keep_answers
        return
    learner.learn(*coloured_squares([0, 1], 8))
    # A class that is the same as a known one: there is something to keep.
    more, asked = coloured_squares([1, 2], 8, seed=1), coloured_squares([0, 1, 2], 8, seed=2)[0]
    scores = []
    for weight in (0.0, 5.0):
        after = learner.variant(keep_answers=weight)
        after.learn(more[0], [label + 10 for label in more[1]])
        scores.append(after.predict(asked).scores)
    assert learner.heeds_keep_answers != torch.equal(*scores)
