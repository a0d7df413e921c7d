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
from continual.backbones.loading import Backbone
from continual.errors import InputError
from continual.methods.mos import early_exit
from continual.methods.mos.adapter_features import AdapterFeatures
from continual.methods.mos.early_exit import EarlyExit
from continual.methods.mos.feature_shift import FeatureShiftModel
from continual.methods.mos.learner import MOSLearner
from continual.methods.mos.retrieval import Answering, ensemble, margins
from continual.seeding import generator
from continual.statistics.class_statistics import Diagonal
from continual.statistics.head import Head

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
    hook = learner.backbone.frozen.network.norm.register_forward_hook(lambda *call: rows.append(len(call[-1])))
    try:
        return learner.score_batch(images), sum(rows)
    finally:
        hook.remove()


def test_certain_images_take_one_pass_and_the_others_go_on(learner: MOSLearner, images: Tensor) -> None:
    exact, all_of_them = passes(learner, images)
    early = learner.variant(early_exit=0.1)
    answering, every, bank = early.answering(), torch.arange(len(images)), early.state.stacked_bank()
    with torch.no_grad():
        first = AdapterFeatures(early.extractor, early.settings.adapter_kind, bank, images, views=1).first
        predictor, _ = early._early_exit(answering)
        cosines, choice = answering.stage_one(first)
        guess = predictor.predict(first, first, torch.zeros_like(every), choice, cosines)

    def asked(enough: float) -> tuple[Any, int]:
        # As if the draws had asked for so much.
        early.state.early_exits[0.1, 4, True] = predictor, enough
        return passes(early, images)

    scores, number = asked(float("inf"))
    assert number == all_of_them, "a pass was run twice, or one was left out"
    torch.testing.assert_close(scores.values, exact.values, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(scores.p_value, exact.p_value)
    assert torch.equal(scores.refinements, exact.refinements)

    enough = float(guess.certainty.median())
    sure = guess.certainty >= enough
    scores, fewer = asked(enough)
    assert torch.equal(scores.values[sure], guess.values[sure])
    assert torch.equal(scores.stack[sure], guess.found.stack[sure])
    at_home = ~sure & (exact.refinements == 0)
    assert at_home.any()
    torch.testing.assert_close(scores.values[at_home], exact.values[at_home], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(scores.p_value[at_home], exact.p_value[at_home])
    assert len(images) < fewer < all_of_them
    assert asked(0.0)[1] == len(images)


def test_after_its_second_pass_an_image_is_predicted_from_there() -> None:
    """Stacks of which the second shifts an image twice as far from its mean as the third: one pass tells all."""
    answering, _ = answering_of(9, 6)
    predictor = EarlyExit(answering, shift_model(0.5, 1e-9, gains=((1, 0, 0), (0, 1, 2), (0, 0.5, 1))))
    first, ran = torch.randn(300, 6, generator=generator(2)), []

    def features_of(rows: Tensor, stacks: Tensor) -> Tensor:
        ran.extend(zip(rows.tolist(), stacks.tolist(), strict=True))
        odd = torch.tensor([1.0, -2.0, 1.5, 0.0, -1.0, 0.5])  # what no mean predicts
        return first[rows] + predictor.shifts.means[stacks] + odd * torch.tensor([0.0, 2.0, 1.0])[stacks, None]

    exact, found = answering.retrieve(first, features_of)
    asked, ran[:] = set(ran), []
    values, _, last = predictor.answer(first, features_of, float("inf"))
    assert set(ran) == asked, "a pass was left out"
    assert all(ran.count((i, k)) == 1 for i, k in enumerate(found.path[:, 0].tolist())), "a second pass was run twice"
    torch.testing.assert_close(values, exact)
    torch.testing.assert_close(last, features_of(torch.arange(300), found.stack))
    moved = (found.path[:, 0] > 0) & ((found.path[:, 1:] > 0).any(-1)) & ~(found.path == 0).any(-1)
    assert moved.sum() > 10
    cosines, choice = answering.stage_one(first)
    second = features_of(torch.arange(300), choice)
    guess = predictor.predict(first, second, choice, choice, cosines)
    torch.testing.assert_close(guess.values[moved], exact[moved])
    assert torch.equal(guess.found.path[moved], found.path[moved])

    # Samples that know it too: whoever was not sure of stage one is sure after one later pass, and right.
    residuals = 3 * torch.randn(64, 6, generator=generator(3))
    samples = torch.stack([0 * residuals, 2 * residuals, residuals])
    knowing = replace(predictor, shifts=replace(predictor.shifts, samples=samples))
    ran.clear()
    values, settled, last = knowing.answer(first, features_of, 1.0)
    went = torch.tensor(sorted({i for i, k in ran if k} & set((choice > 0).nonzero()[:, 0].tolist())))
    assert moved[went].sum() > 10
    assert all(sum(i == image for i, _ in ran) == 1 for image in went.tolist())
    torch.testing.assert_close(values[went], exact[went])
    torch.testing.assert_close(last[went], features_of(went, found.stack[went]))
    assert torch.equal(settled.stack[went], found.stack[went])


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
    own = torch.stack([state.statistics[c].mean - state.prototypes.mean[c] for c in (2, 3)])
    torch.testing.assert_close(state.shifts[1].mean, own.mean(0), atol=1e-6, rtol=1e-4)
    learner.variant(early_exit=0.1).save(tmp_path / "m.safetensors", embed_backbone=True)
    again = continual.load(tmp_path / "m.safetensors")
    images = torch.rand(4, 3, 16, 16)
    assert torch.equal(again.score_batch(images).values, learner.variant(early_exit=0.1).score_batch(images).values)


def test_a_model_of_before_is_told_apart(learner: MOSLearner, images: Tensor, blobs: Blobs) -> None:
    old = learner.variant(early_exit=0.1)
    old.state = replace(learner.state, shifts=())
    with pytest.raises(InputError, match="was learned before early_exit was known: leave it out, or learn again"):
        old.score_batch(images)
    old.variant(early_exit=None).learn(*blobs([6], 2))
    with pytest.raises(InputError, match="leave consolidate out"):
        learner.variant(early_exit=0.1, consolidate="mean")


def answering_of(classes: int, width: int) -> tuple[Answering, list[Diagonal]]:
    draw = generator(0, "classes")
    means = 3 * torch.randn(classes, width, generator=draw)
    head = Head(torch.randn(classes, width, generator=draw) + means, torch.zeros(classes))
    own = torch.arange(classes) % 3

    def combine(logits: Tensor, cosines: Tensor) -> Tensor:
        return ensemble(logits, cosines, 3) / 2

    return Answering(head, means, own, 4, combine), [Diagonal(5, mean, torch.ones(width)) for mean in means]


def shift_model(step: float, variance: float, seed: int = 1, gains: Any = None) -> FeatureShiftModel:
    """Return shifts by 0, `step` and twice that in six features, whose residuals share nothing but the gains."""
    shifts = [Diagonal(9, torch.full((6,), step * k), torch.full((6,), variance)) for k in range(3)]
    bank = {"weight": torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])}
    made = FeatureShiftModel.of(shifts, None, bank, generator(seed, "samples"), 1e-9)
    return made if gains is None else replace(made, gains=torch.tensor(gains))


@pytest.mark.slow
def test_the_wider_shifts_spread_the_more_images_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    answering, statistics = answering_of(9, 6)
    own = answering.class_experience

    def asked(spread: float, tolerance: float) -> tuple[float, float]:
        """Return what is enough, and the share of other draws that are as certain."""
        predictor = EarlyExit(answering, shift_model(0.1, spread, seed=1))
        drawn = [shift_model(0.1, spread, seed).simulated(own, statistics, generator(seed), 1e-9) for seed in (2, 3)]
        enough = predictor.enough(drawn[0], tolerance)
        first, _ = drawn[1]
        cosines, choice = answering.stage_one(first)
        certainty = predictor.predict(first, first, torch.zeros_like(choice), choice, cosines).certainty
        shares.append(float(certainty.clamp(max=1).mean()))
        return enough, float((certainty >= enough).float().mean())

    shares: list[float] = []
    assert asked(0.0, 0.0)[1] > 0.99
    before = asked(8.0, 0.01)
    assert 0.99 > asked(2.0, 0.01)[1] > before[1] > asked(32.0, 0.01)[1]
    at_0, at_8, at_2, at_32 = shares
    assert 1 == at_0 > at_2 > at_8 > at_32, "samples do not differ as the shifts do"
    assert asked(8.0, 0.05)[0] < asked(8.0, 0.02)[0] < before[0]
    monkeypatch.setattr(early_exit, "AT_ONCE", 50 * 64 * 9)
    assert asked(8.0, 0.01) == before, "it matters how many images are predicted at once"


def test_margins() -> None:
    assert margins(torch.tensor([[0.5, 0.2, 0.3], [0.1, 0.1, 0.8]])).tolist() == pytest.approx([0.2, 0.7])
    assert margins(torch.tensor([[1.0]])).tolist() == [float("inf")]
