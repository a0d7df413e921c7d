"""A learner goes to another backbone: what it remembers moves, what cannot is refused, and nothing is half done."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from continual import (
    FinetuneLearner,
    MOSLearner,
    RanPACLearner,
    RidgeLearner,
    SimpleCILLearner,
    SLCALearner,
    StrataLearner,
    load,
)
from continual.backbones.loading import Backbone, assemble, create
from continual.errors import InputError, LearningError
from continual.learning import porting
from continual.lifecycle.review import review
from continual.methods.mos.consolidation import consolidated
from continual.seeding import generator
from continual.testing import TINY_ARGS, coloured_squares, tiny_backbone, tiny_convnet

BACKBONE = tiny_backbone()
IMAGES, LABELS = coloured_squares(range(6), 12)
TEST, TRUTH = coloured_squares(range(6), 6, seed=1)
OTHERS = coloured_squares(range(20, 60), 4)[0]  #: to map by: of classes that no model knows
QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 8, "bottleneck": 4, "alignment_epochs": 10}


def updated(amount: float = 0.06, backbone: Backbone = BACKBONE) -> Backbone:
    """A backbone whose weights have moved."""
    frozen, draw = copy.deepcopy(backbone.frozen), torch.Generator().manual_seed(0)
    for parameter in frozen.network.parameters():
        parameter.data += amount * torch.randn(parameter.shape, generator=draw)
    return replace(backbone, frozen=frozen, sha256="")


def taught(kind: Any, backbone: Backbone = BACKBONE, **settings: Any) -> Any:
    learner = kind(backbone, **settings)
    for first in (0, 24, 48):
        learner.learn(IMAGES[first : first + 24], LABELS[first : first + 24])
    return learner


def scores(learner: Any) -> Tensor:
    return learner.predict(TEST).scores


@pytest.mark.parametrize("kind", [RidgeLearner, StrataLearner, SimpleCILLearner])
def test_a_closed_form_is_as_good_as_learned_anew(kind: Any) -> None:
    new = updated()
    learner = taught(kind)
    unmapped = taught(kind)
    unmapped.backbone = new
    report = learner.port(new, OTHERS)
    assert 0.9 < min(report.explained) < 1
    assert report.images == len(OTHERS)
    assert unmapped.evaluate(TEST, TRUTH) < 0.5
    assert learner.evaluate(TEST, TRUTH) > 0.9


def test_a_closed_form_goes_to_another_architecture(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="explain 26% of the new ones' variance"):
        taught(RidgeLearner).port(tiny_convnet(), OTHERS)
    monkeypatch.setattr(porting, "LEAST_EXPLAINED", 0.2)
    learner = taught(RidgeLearner)
    learner.port(tiny_convnet(), OTHERS)
    assert learner.state.sums.total.shape == (tiny_convnet().width,)
    ranpac = taught(RanPACLearner, epochs=0, projection=40)
    ranpac.predict(TEST)  # draws the projection for the old width
    ranpac.port(tiny_convnet(), OTHERS)
    assert ranpac.projection.shape == (tiny_convnet().width, 40)
    assert len(ranpac.predict(TEST).labels) == len(TEST)


@pytest.mark.parametrize("kind", [MOSLearner, SLCALearner])
def test_the_head_stays_with_its_answers_as_asked(kind: Any) -> None:
    """On the mapping images, which it is held to on: the more, the more; and not to answers they never had."""
    own = {name: value for name, value in QUICK.items() if name in kind.settings_type.model_fields}
    before, agreeing = taught(kind, **own), []
    old = before.predict(OTHERS).scores
    for weight in (0.0, 3.0):
        learner = before.variant()
        learner.port(updated(0.05), OTHERS, keep_answers=weight)
        agreeing.append(float((learner.predict(OTHERS).scores - old).abs().sum(1).mean()))
    assert agreeing[1] < agreeing[0]


def test_adapters_are_copied_and_shifts_move_along() -> None:
    learner = taught(MOSLearner, **QUICK)
    bank = learner.state.bank
    learner.port(updated(0.02), OTHERS)
    assert all(torch.equal(a[k], b[k]) for a, b in zip(bank, learner.state.bank, strict=True) for k in a)
    assert len(learner.state.shifts) == 3
    assert learner.state.shifts[0].mean.abs().max() < 1e-6
    inputs = torch.stack([learner._given(IMAGES, LABELS, None).evaluation[i][0] for i in range(24, 48)])
    with torch.no_grad():
        own = learner.remembered_features(learner.extractor, inputs)
    wanted = (own[1] - own[0]).mean(0)
    assert (learner.state.shifts[1].mean - wanted).norm() < 0.35 * wanted.norm()
    consolidated(learner)
    learner.variant(early_exit=0.05).predict(TEST)


def test_what_slca_has_learned_is_added_to_the_new_backbone() -> None:
    learner = taught(SLCALearner, epochs=1, batch_size=8, alignment_epochs=2)
    old, new = (dict(one.frozen.network.named_parameters()) for one in (BACKBONE, updated(0.02)))
    mine = learner.state.backbone
    learner.port(updated(0.02), OTHERS)
    for name, weight in learner.state.backbone.items():
        assert torch.allclose(weight - new[name], mine[name] - old[name], atol=1e-6)


def test_more_flips_are_expected_of_a_larger_update() -> None:
    found = []
    for amount in (0.03, 0.1):
        learner = taught(RidgeLearner)
        before = learner.predict(TEST).labels
        report = learner.port(updated(amount), OTHERS)
        answers = zip(before, learner.predict(TEST).labels, TRUTH, strict=True)
        assert report.simulation is not None
        drawn = [report.simulation(index, 300, generator(0, index)) for index in range(6)]
        expected = sum(float(((a == k) & (b != k)).float().mean()) for k, (a, b) in enumerate(drawn)) / 6
        found.append((sum(a == t != b for a, b, t in answers), expected))
    (none, few), (some, more) = found
    assert none == 0
    assert some > 0
    assert few < 0.02 < 0.05 < more


def test_ridge_keeps_its_penalty() -> None:
    """Cross-validation on mapped sums would take it many times too strong; it follows the images that come later."""
    learner = taught(RidgeLearner)
    penalty = learner.state.penalty
    learner.port(updated(), OTHERS)
    assert learner.state.penalty == pytest.approx(penalty)
    learner.learn(IMAGES[:36], LABELS[:36])
    assert learner.state.penalty == pytest.approx(1.5 * penalty)


def test_a_file_of_a_ported_model(tmp_path: Any) -> None:
    learner, new = taught(StrataLearner), updated()
    learner.port(new, OTHERS)
    learner.save(tmp_path / "ported.safetensors")
    again = load(tmp_path / "ported.safetensors", new)
    assert torch.equal(scores(again), scores(learner))
    with pytest.raises(Exception, match="backbone weights"):
        load(tmp_path / "ported.safetensors", BACKBONE)


def test_with_a_group() -> None:
    """Every view is remembered by itself, and mapped so; the views of an image are left out together."""
    learner = taught(RidgeLearner, group="C4")
    learner.port(updated(0.03), OTHERS)
    assert learner.evaluate(TEST, TRUTH) > 0.9


def test_what_cannot_be_ported_is_refused_and_leaves_no_trace() -> None:
    mos, ridge = taught(MOSLearner, **QUICK), taught(RidgeLearner)
    deeper = assemble(create("vit_tiny_patch16_224", {**TINY_ARGS, "depth": 3}), "vit_tiny_patch16_224")
    fitted = taught(RidgeLearner)
    fitted.state = replace(fitted.state, fitted={"x": torch.zeros(1)})
    for learner, to, images, more, said in (
        (taught(FinetuneLearner, epochs=1), updated(), OTHERS, {}, "remembers nothing of its classes but a head"),
        (RidgeLearner(BACKBONE), updated(), OTHERS, {}, "nothing has been learned"),
        (ridge, updated(), OTHERS[:19], {}, "19 images are too few"),
        (ridge, updated(), OTHERS, {"keep_answers": 1.0}, "goes with methods that align a head"),
        (mos, updated(), OTHERS, {"keep_answers": -1.0}, "a number from 0"),
        (mos, tiny_convnet(), OTHERS, {}, "works inside the blocks of a ViT"),
        (mos, deeper, OTHERS, {}, "another architecture"),
        (fitted, updated(), OTHERS, {}, "was fitted to features"),
    ):
        before = learner.backbone, learner.state
        with pytest.raises(InputError, match=said):
            learner.port(to, images, **more)
        assert learner.backbone is before[0]
        assert learner.state is before[1]


def test_a_port_to_other_preprocessing_is_judged_by_its_own_simulation() -> None:
    """The weights are the same, and features of the two ways are not."""
    before = taught(RidgeLearner)
    after, prepared = before.variant(), replace(BACKBONE.preprocessing, crop_pct=0.5)
    after.backbone = replace(BACKBONE, preprocessing=prepared)

    def broken(index: int, count: int, _: Any) -> tuple[Tensor, Tensor]:
        return torch.full((count,), index), torch.full((count,), (index + 1) % 6)

    assert review(before, after, [], simulation=broken).simulated == dict.fromkeys(range(6), 1.0)
    assert review(before, after, []).unjudged == [*range(6)]
    assert not any(review(before, before.variant(), []).simulated.values())


def test_an_unrelated_backbone_is_refused() -> None:
    """Random features of noise have nothing in common."""
    noise = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    learner = taught(RidgeLearner)
    state = learner.state
    with pytest.raises(InputError, match="learn from scratch on the new backbone"):
        learner.port(updated(3.0), noise)
    assert learner.state is state


def test_a_model_that_would_not_answer_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    learner = taught(RidgeLearner)
    before = scores(learner)
    broken = replace(learner.state, head=replace(learner.state.head, bias=learner.state.head.bias * torch.nan))
    monkeypatch.setattr(RidgeLearner, "ported", lambda *_: broken)
    with pytest.raises(LearningError, match="does not answer"):
        learner.port(updated(), OTHERS)
    assert torch.equal(scores(learner), before)
