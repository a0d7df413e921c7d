"""Corrections, forgetting and renaming beyond the laws: what they do to answers and to what is remembered."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from continual.methods import methods
from continual.methods.bases.alignment import AlignmentSettings, align
from continual.methods.joint import JointLearner
from continual.methods.mos.learner import MOSLearner
from continual.seeding import generator
from continual.statistics.class_statistics import fit
from continual.statistics.head import Head
from continual.statistics.ridge import GramStatistics, solve
from continual.testing import tiny_backbone

Blobs = Callable[..., tuple[Tensor, list[int]]]
QUICK: dict[str, Any] = {"epochs": 5, "batch_size": 4, "lr": 0.05, "bottleneck": 4, "alignment_epochs": 30}


def learner_of(kind: type[Any], blobs: Blobs, **changes: Any) -> Any:
    fields = kind.settings_type.model_fields
    learner = kind(tiny_backbone(), **{k: v for k, v in {**QUICK, **changes}.items() if k in fields})
    for classes in ([0, 1], [2, 3]):
        learner.learn(*blobs(classes, 8))
    return learner


@pytest.mark.parametrize("method", ["mos", "ranpac", "ridge"])
def test_corrected_images_are_answered_right_and_the_others_as_before(method: str, blobs: Blobs) -> None:
    """Images of a fifth colour, said to be of class 0, are answered 0; those of the four classes stay."""
    learner = learner_of(methods()[method], blobs, projection=200, alignment_lr=0.05)
    odd, old = blobs([9], 8)[0], blobs([0, 1, 2, 3], 8, 1)
    wrong = next(label for label in (0, 1, 2, 3) if label not in learner.predict(odd).labels)
    assert learner.evaluate(*old) >= 0.9
    learner.correct(odd[:6], wrong)
    assert learner.evaluate(odd, [wrong] * 8) >= 0.75
    assert learner.evaluate(*old) >= 0.9


def test_a_folder_of_corrections(blobs: Blobs, tmp_path: Any) -> None:
    from PIL import Image

    learner, direct = (learner_of(methods()["simple_cil"], blobs) for _ in range(2))
    images = blobs([9], 3)[0]
    for number, image in enumerate(images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / f"{number}.png")
    learner.correct(tmp_path, 1)
    direct.correct(images, 1)
    assert learner.state.prototypes.count.tolist() == [8, 11, 8, 8]
    torch.testing.assert_close(learner.state.prototypes.mean, direct.state.prototypes.mean, atol=1e-3, rtol=1e-3)


@pytest.mark.slow
def test_mos_without_the_ensemble_keeps_answers_whose_stack_stays(blobs: Blobs) -> None:
    images = blobs([0, 1, 2, 3, 5, 6], 8, 1)[0]
    for label in range(4):
        learner = learner_of(MOSLearner, blobs, ensemble=False)
        before = learner.predict(images)
        learner.forget(label)
        after = learner.predict(images)
        same = [
            (old, new)
            for old, new, a, b in zip(before.labels, after.labels, before.stack, after.stack, strict=True)
            if old != label and a == b
        ]
        assert len(same) >= 8
        assert all(old == new for old, new in same)


def test_sums_without_a_class_lack_its_mean_and_its_share_of_the_scatter() -> None:
    x = torch.randn(30, 4, dtype=torch.float64, generator=generator(0)) + torch.arange(30)[:, None] % 3
    y = torch.arange(30) % 3
    rest, renumbered = x[y != 1], (y[y != 1] > 1).long()
    sums, whole = GramStatistics.of(x, y, 3).without(1), GramStatistics.of(x, y, 3)
    expected = GramStatistics.of(rest, renumbered, 2)
    for name in ("total", "targets", "counts"):
        torch.testing.assert_close(getattr(sums, name), getattr(expected, name))
    within = [s.gram() - (s.targets / s.counts) @ s.targets.mT for s in (whole, sums)]
    torch.testing.assert_close(within[1], within[0] * 2 / 3)
    one = GramStatistics.of(x[:1], y[:1] + 3, 4).plus(whole).without(3)
    torch.testing.assert_close(one.gram(), whole.gram())
    for standardise in (True, False):
        assert torch.isfinite(solve(sums, 1.0, standardise=standardise).weight).all()


@pytest.mark.parametrize("directions", [0, 5, 11])
def test_two_hundred_classes_that_came_and_went(directions: int) -> None:
    """Of up to 12 images with 11 directions nothing is left but rounding; the estimate keeps the scatter's size."""
    x, y = torch.randn(60, 16, generator=generator(1)).double(), torch.arange(60) % 5
    never = GramStatistics.of(x + y[:, None], y, 5, directions)
    sums = never
    for cycle in range(200):
        # Twice as many images in two parts: what is known of both is joined.
        for part in range(1 + cycle % 2):
            own = torch.randn(12 // (1 + cycle % 2), 16, generator=generator(2, cycle, part)).double() + cycle % 7
            sums = GramStatistics.of(own, torch.full((len(own),), 5), 6, directions).plus(sums)
        sums = sums.without(5)
    error = (sums.gram() - never.gram()).norm() / never.gram().norm()
    assert error < {0: 0.2, 5: 0.2, 11: 1e-10}[directions]
    trace = [(s.gram() - (s.targets / s.counts) @ s.targets.mT).trace() for s in (sums, never)]
    assert float(trace[0] / trace[1]) == pytest.approx(1, abs=0.1)
    torch.testing.assert_close(sums.targets, never.targets)
    if directions:
        assert sums.scatter is not None
        assert sums.scatter.shape == (5, directions, 16)


@pytest.mark.parametrize("method", ["strata", "ridge"])
def test_an_exact_learner_answers_at_once_as_if_the_class_had_never_been(method: str, blobs: Blobs) -> None:
    learner, never = (learner_of(methods()[method], blobs, exact_forget=7) for _ in range(2))
    images = blobs([0, 1, 2, 3], 8, 1)[0]
    for _ in range(10):
        learner.learn(*blobs([7], 8))
        learner.forget(7)
    torch.testing.assert_close(learner.predict(images).scores, never.predict(images).scores, atol=1e-6, rtol=0)
    plain = learner_of(methods()[method], blobs)
    directions = {"ridge": 7, "strata": 15}[method]  # of 8 images, and of these and their mirror images
    more = sum(learner.memory().values()) - sum(plain.memory().values())
    assert more == 4 * directions * len(plain.state.sums.total) * 8


def test_a_joint_learner_learns_on_without_the_forgotten_and_with_the_new_name(blobs: Blobs) -> None:
    learner = learner_of(JointLearner, blobs, epochs=1)
    learner.rename(2, 20)
    learner.forget(1)
    learner.learn(*blobs([4], 2))
    assert learner.classes == (0, 20, 3, 4)
    assert [len(part.labels) for part in learner.state.seen] == [8, 16, 2]
    assert {label for part in learner.state.seen for _, label in part.evaluation} == {0, 20, 3, 4}


def test_examples_pull_the_head_and_only_where_they_are_given() -> None:
    draw = generator(0)
    statistics = [fit(torch.randn(9, 3, generator=draw) + 4 * torch.eye(3)[c]) for c in range(2)]
    head = Head(torch.zeros(2, 3), torch.zeros(2))
    example = torch.tensor([[5.0, 0.0, 5.0]])
    settings = AlignmentSettings(alignment_epochs=5, batch_size=8, alignment_lr=0.05)
    plain = align(head, statistics, settings, generator=generator(1))
    pulled = align(head, statistics, settings, generator=generator(1), examples=(example, torch.tensor([1])))
    answer = [int(each(example).argmax()) for each in (plain, pulled)]
    assert answer == [0, 1]


def test_an_edit_changes_no_state_that_someone_else_holds(blobs: Blobs) -> None:
    learner = learner_of(MOSLearner, blobs)
    state, copied = learner.state, copy.deepcopy(learner.state)
    learner.rename(0, 10)
    learner.correct(blobs([9], 2)[0], 1)
    learner.forget(3)
    assert state.classes == copied.classes
    assert torch.equal(state.head.weight, copied.head.weight)
    assert torch.equal(state.prototypes.mean, copied.prototypes.mean)
