"""TUNA: fusing, the loss, certainty, and what is asked for an answer."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from continual.adapters.bank import completed, shared
from continual.learning.settings import make
from continual.learning.training import Output
from continual.merging.base import merged
from continual.methods.tuna import TUNALearner, TUNASettings, TUNATraining, alignment_of, mean_rows, most_certain
from continual.seeding import generator
from continual.statistics.head import CosineHead
from continual.testing.cases import coloured_squares, tiny_backbone

FAST = {"epochs": 2, "alignment_epochs": 2, "batch_size": 8, "bottleneck": 4}


def stack(*numbers: float) -> dict[str, Tensor]:
    return {"a": torch.tensor(numbers)}


def learned(experiences: int = 3, **settings: object) -> TUNALearner:
    learner = TUNALearner(tiny_backbone(), **{**FAST, **settings})
    for number in range(experiences):
        learner.learn(*coloured_squares([2 * number, 2 * number + 1]))
    return learner


@pytest.fixture(scope="module")
def three() -> TUNALearner:
    return learned()


def test_fusing_elects_a_side_and_takes_the_largest_there() -> None:
    bank = [stack(1.0, 1.0, 0.0, 2.0), stack(-3.0, -3.0, 0.0, 2.0), stack(2.5, 1.0, 0.0, 2.0)]
    for order in ((0, 1, 2), (2, 0, 1)):
        torch.testing.assert_close(merged("elect", [bank[k] for k in order]), stack(2.5, -3.0, 0.0, 2.0))
    torch.testing.assert_close(merged("elect", bank[:1]), bank[0])
    several = torch.randn(5, 40, generator=generator(0))
    fused = merged("elect", [{"a": row} for row in several])["a"]
    assert (fused.abs() <= several.abs().amax(0)).all()


def test_mean_rows_give_the_mean_of_all_products() -> None:
    mine, others = (torch.randn(n, 2, 12, 3, generator=generator(n)) for n in (1, 4))
    fast = alignment_of(mean_rows(mine[0]), torch.stack([mean_rows(other) for other in others]))
    unit = torch.nn.functional.normalize
    naive = [(unit(mine[0], dim=-1) @ unit(other, dim=-1).mT).mean((1, 2)).abs().mean() for other in others]
    torch.testing.assert_close(fast, torch.stack(naive).sum())


@pytest.mark.parametrize("margin", [0.0, 0.3])
def test_the_loss_is_that_of_cosface_over_the_new_classes(margin: float) -> None:
    learner = learned(1, margin=margin, orthogonality=0.0)
    images, labels = coloured_squares([2, 3])
    training = learner.start_training(learner._given(images, labels, None))
    assert isinstance(training, TUNATraining)
    features = torch.randn(4, 32, generator=generator(3))
    cosines = training.head(features) / learner.settings.sharpness
    truth = torch.tensor([0, 1, 1, 0])
    scaled = 20 * (cosines[:, 2:] - margin * torch.nn.functional.one_hot(truth, 2))
    found = training.loss(Output(features, training.head(features)), (truth + 2).tolist())
    torch.testing.assert_close(found, torch.nn.functional.cross_entropy(scaled, truth))


def test_orthogonality_falls_with_the_experiences_and_reaches_no_stored_adapter(three: TUNALearner) -> None:
    before = [{name: tensor.clone() for name, tensor in own.items()} for own in three.state.bank]
    learner = three.variant(orthogonality=10.0)
    training = learner.start_training(learner._given(*coloured_squares([6]), None))
    output = Output(torch.zeros(1, 32), torch.zeros(1, 7))
    plain = three.start_training(three.variant(orthogonality=0.0)._given(*coloured_squares([6]), None))
    plain.settings = plain.settings.model_copy(update={"orthogonality": 0.0})
    own = mean_rows(three.state.bank[-1]["up_weight"])
    expected = 10 * math.exp(-4) * alignment_of(own, torch.stack([mean_rows(s["up_weight"]) for s in before]))
    torch.testing.assert_close(training.loss(output, [6]) - plain.loss(output, [6]), expected, atol=1e-6, rtol=1e-4)
    learner.learn(*coloured_squares([6]))
    for was, now in zip(before, learner.state.bank, strict=False):
        assert all(torch.equal(was[name], now[name]) for name in was)


def test_certainty_is_low_entropy_and_the_first_of_equals() -> None:
    even, sure = torch.full((4,), 0.25), torch.tensor([0.97, 0.01, 0.01, 0.01])
    assert most_certain(torch.stack([even, sure, even])[:, None]).tolist() == [1]
    assert most_certain(torch.stack([even, even])[:, None]).tolist() == [0]


@pytest.mark.parametrize("universal", ["fused", "newest", "none"])
def test_the_most_certain_adapter_and_the_universal_one_answer(three: TUNALearner, universal: str) -> None:
    learner, images = three.variant(universal=universal), coloured_squares(range(6), seed=1)[0]
    prepared, kind = learner.preprocessing.evaluation()(images), learner.settings.adapter_kind
    under = [learner.extractor.features(prepared, shared(kind, own)) for own in completed(learner.state.bank)]
    head = learner.state.head
    assert isinstance(head, CosineHead)
    answers = torch.stack([head(features).softmax(-1) for features in under])
    expected = answers[most_certain(answers), torch.arange(len(images))]
    if universal == "newest":
        expected = (expected + answers[-1]) / 2
    if universal == "fused":
        fused = learner.extractor.features(prepared, shared(kind, learner.state.fused))
        expected = (expected + head(fused).softmax(-1)) / 2
    found = learner._scores(prepared)
    torch.testing.assert_close(found.values, expected)
    assert found.stack is not None
    assert found.stack.tolist() == most_certain(answers).tolist()
    for rows in (slice(0, 1), slice(5, 9)):
        torch.testing.assert_close(learner._scores(prepared[rows]).values, expected[rows])


def test_one_experience_is_answered_by_its_cosines_alone() -> None:
    learner, images = learned(1), coloured_squares([0, 1], seed=1)[0]
    prepared = learner.preprocessing.evaluation()(images)
    adapters = shared(learner.settings.adapter_kind, learner.state.bank[0])
    expected = learner.state.head(learner.extractor.features(prepared, adapters)).softmax(-1)
    torch.testing.assert_close(learner._scores(prepared).values, expected)


def test_an_impossible_margin_is_refused() -> None:
    with pytest.raises(Exception, match="margin"):
        make(TUNASettings, margin=1.0)
