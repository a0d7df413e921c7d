"""MOS with a single adapter: one pass, every class kept, the cost said beforehand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import continual
from continual.adapters.bank import shared
from continual.errors import InputError
from continual.learning.extractor import Extractor
from continual.merging.base import merged
from continual.methods.bases.adapter_training import new_adapter
from continual.methods.mos.consolidation import coefficients, consolidated, estimate
from continual.methods.mos.learner import MOSLearner
from continual.statistics.class_statistics import Kind, fit
from continual.testing import coloured_squares, tiny_backbone


@pytest.fixture(scope="module")
def learner() -> MOSLearner:
    """Three experiences, trained until the stacks differ."""
    torch.set_num_threads(1)
    learner = MOSLearner(tiny_backbone(), epochs=8, batch_size=4, lr=0.3, bottleneck=4, alignment_epochs=5)
    for classes in ([0, 1], [2, 3], [4, 5, 6]):
        learner.learn(*coloured_squares(classes, 8))
    return learner


def test_one_stack_answers_in_one_pass_about_as_well(
    learner: MOSLearner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    images, labels = coloured_squares(range(7), 8, seed=1)
    single = consolidated(learner)
    assert single.classes == learner.classes
    assert len(single.state.bank) == 1
    passes: list[int] = []
    features = Extractor.features

    def counted(self: Extractor, given: Any, *rest: Any, **options: Any) -> torch.Tensor:
        found = features(self, given, *rest, **options)
        passes.append(len(found))
        return found

    monkeypatch.setattr(Extractor, "features", counted)
    answers = single.predict(images)
    monkeypatch.undo()
    assert sum(passes) == len(images)
    assert answers.stack is not None
    assert set(answers.stack.tolist()) == {0}
    cost = learner.evaluate(images, labels) - single.evaluate(images, labels)
    guess = estimate(learner, single)
    assert 0.05 < cost < 0.3, "these stacks are trained to differ"
    assert cost == pytest.approx(guess.before - guess.after, abs=0.1)
    single.save(tmp_path / "single.safetensors")
    again = continual.load(tmp_path / "single.safetensors", learner.backbone)
    assert torch.equal(again.predict(images).scores, answers.scores)
    assert len(learner.state.bank) == 3


def test_what_is_remembered_of_a_class_moves_back_by_its_stack_s_shift(learner: MOSLearner) -> None:
    single, state = consolidated(learner), learner.state
    for label, experience in enumerate(state.class_experience):
        moved = state.statistics[label].mean - single.state.statistics[label].mean
        shift = state.shifts[experience].mean if experience else torch.zeros(32)
        torch.testing.assert_close(moved, shift, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("rule", ["mean", "ema", "ties", "pcb", "pairwise"])
def test_a_merged_stack_takes_what_is_remembered_along(learner: MOSLearner, rule: str) -> None:
    single, state = consolidated(learner, rule), learner.state
    begin = new_adapter(learner.settings, learner.backbone)
    expected = merged(rule, state.bank, begin)
    assert all(torch.equal(single.state.bank[0][name], tensor) for name, tensor in expected.items())
    # Statistics went about where features go on the average; these stacks differ enough to bend the way.
    images = coloured_squares(range(7), 8)[0]
    views = torch.stack([learner.backbone.preprocessing.evaluation()(image) for image in images])
    kind, extractor = learner.settings.adapter_kind, learner.extractor
    first, now = (extractor.features(views, shared(kind, one)).mean(0) for one in (state.bank[0], expected))
    assert state.prototypes is not None
    assert single.state.prototypes is not None
    went = (single.state.prototypes.mean - state.prototypes.mean)[0]
    assert float((went - (now - first)).norm()) < 0.75 * float((now - first).norm())
    cost = learner.evaluate(*coloured_squares(range(7), 8, seed=1)) - single.evaluate(
        *coloured_squares(range(7), 8, seed=1)
    )
    guess = estimate(learner, single)
    assert cost == pytest.approx(guess.before - guess.after, abs=0.15)
    single.learn(*coloured_squares([7], 4))
    assert len(single.classes) == 8


def test_coefficients_say_what_a_merge_is_made_of(learner: MOSLearner) -> None:
    bank = learner.state.bank
    torch.testing.assert_close(
        coefficients(merged("mean", bank), bank), torch.tensor([0.0, 1 / 3, 1 / 3]).double(), atol=1e-4, rtol=0
    )
    assert not coefficients(bank[0], bank).any()
    twice = coefficients(bank[1], [bank[0], bank[1], bank[1]])
    torch.testing.assert_close(twice, torch.tensor([0.0, 0.5, 0.5]).double(), atol=1e-4, rtol=0)


def test_it_can_learn_on(learner: MOSLearner) -> None:
    single = consolidated(learner)
    begun = single.state.shift_sums
    assert begun is not None
    assert not begun.gram.any()
    single.learn(*coloured_squares([7], 8))
    assert single.state.shift_sums is not None
    assert torch.equal(single.state.shift_sums.origins[:1], begun.origins)
    assert len(single.state.shift_sums.origins) == len(single.state.shifts) == 2
    assert len(single.classes) == 8
    assert single.state.experiences == len(single.state.bank) == 2
    single.predict(coloured_squares([7], 2)[0])


def test_the_estimate_sees_a_stack_that_cannot_be_done_without(learner: MOSLearner) -> None:
    kind = estimate(learner, consolidated(learner))
    assert 0 <= kind.after <= kind.before + 0.05
    wide = [replace(s, factor=s.factor + 30 * torch.randn(s.factor.shape)) for s in learner.state.shifts]  # type: ignore
    other = learner.variant()
    other.state = replace(learner.state, shifts=tuple(wide))
    harder = estimate(other, consolidated(other))
    assert harder.after < kind.after - 0.1


@pytest.mark.parametrize("kind", ["full", "shrunk", "diagonal", "low_rank", "centroids"])
def test_statistics_move_as_their_features_do(kind: Kind) -> None:
    features, by = torch.randn(20, 6), torch.arange(6.0)
    moved, anew = fit(features, kind, 3).moved(by), fit(features + by, kind, 3)
    draws = [s.sampler(1e-4).draw(4000, torch.Generator().manual_seed(0)).mean(0) for s in (moved, anew)]
    torch.testing.assert_close(draws[0], draws[1], atol=0.15, rtol=0)
    torch.testing.assert_close(moved.mean, anew.mean)


def test_what_cannot_be_consolidated_says_why(learner: MOSLearner) -> None:
    with pytest.raises(InputError, match="single adapter already"):
        consolidated(consolidated(learner))
    with pytest.raises(InputError, match="nothing has been learned"):
        consolidated(MOSLearner(learner.backbone))
    old = learner.variant()
    old.state = replace(learner.state, shifts=())
    with pytest.raises(InputError, match="learn it again"):
        consolidated(old)
    with pytest.raises(InputError, match="unknown merge rule 'tie': did you mean 'ties'"):
        consolidated(learner, "tie")
    with pytest.raises(InputError, match="no setting 'share'"):
        consolidated(learner, "pcb", share=0.2)
    with pytest.raises(InputError, match="name a rule of merging"):
        consolidated(learner, ratio=0.2)
    with pytest.raises(InputError, match="setting consolidate"):
        consolidated(learner.variant(consolidate="mean"))


@pytest.mark.parametrize("rule", ["mean", "pcb", "ties"])
def test_a_merged_adapter_does_not_read_what_is_ignored(rule: str) -> None:
    learner = MOSLearner(tiny_backbone(), epochs=3, batch_size=4, lr=0.3, bottleneck=4, alignment_epochs=1, alpha=0.0)
    logo = continual.Concept.of(coloured_squares([8, 9], 6)[0], stamp=Image.new("RGB", (8, 8), "red"), name="logo")
    for classes in ([0, 1], [2, 3]):
        learner.learn(*coloured_squares(classes, 6), ignoring=logo)
    single = consolidated(learner, rule)
    (ignored,) = single.state.ignored or ()
    assert ignored.blocks is not None
    read = single.state.bank[0]["down_weight"] @ ignored.blocks[..., None]
    assert read.abs().max() < 1e-5
