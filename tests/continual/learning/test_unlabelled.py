"""Unlabelled images beside labelled ones: what they weigh, and what they never change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import continual
from continual.backbones.loading import Backbone
from continual.data.inputs import as_experience, with_unlabelled
from continual.errors import InputError
from continual.learning.unlabelled import PseudoLabels, UnlabelledUse, usual
from continual.methods.bases.teaching import divergence, meta_weights, taught_by
from continual.seeding import generator
from continual.statistics.ridge import GramStatistics
from continual.statistics.weighted import weighted_sums
from continual.testing import coloured_squares
from tests.support.avalanche_fixtures import assert_same

Blobs = Callable[..., tuple[Tensor, list[int]]]
QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 4, "bottleneck": 4, "lr": 0.05}
CASES: list[tuple[str, dict[str, Any]]] = [
    ("ridge", {}),
    ("strata", {}),
    ("strata", {"exact_forget": 2, "mirror_as": "mean"}),
    ("ranpac", {"epochs": 0, "projection": 60}),
    ("ranpac", {**QUICK, "projection": 60}),
    ("mos", {**QUICK, "alignment_epochs": 1}),
    ("mos", {**QUICK, "alignment_epochs": 1, "stage_one": "ridge"}),
    ("mos", {**QUICK, "alignment_epochs": 1, "adapter": "ladder"}),
    ("ease", QUICK),
    ("finetune", QUICK),
]


def made(backbone: Backbone, name: str, settings: dict[str, Any]) -> Any:
    return continual.methods.method(name)(backbone, **settings)


# Weights -------------------------------------------------------------------------------------------------


def linear_case(seed: int) -> tuple[Any, ...]:
    draw = generator(seed, "case")
    weight = torch.randn(3, 4, generator=draw, dtype=torch.float64)
    x, new = (torch.randn(n, 4, generator=draw, dtype=torch.float64) for n in (6, 5))
    y = F.one_hot(torch.randint(3, (6,), generator=draw), 3).double()
    teacher = torch.randn(5, 3, generator=draw, dtype=torch.float64).softmax(-1)
    return weight, x, y, new, teacher


@given(seed=st.integers(0, 200))
def test_the_weights_of_a_linear_head_are_the_closed_form(seed: int) -> None:
    """w_i = max(0, sum_l <p_i - t_i, p_l - y_l> <x_i, x_l>) over their sum, the labelled loss being a mean."""
    weight, x, y, new, teacher = linear_case(seed)
    labelled = weight.clone().requires_grad_()
    loss = -(y * (x @ labelled.mT).log_softmax(-1)).sum(-1).mean()
    (gradient,) = torch.autograd.grad(loss, [labelled])
    found = meta_weights(lambda p: divergence(teacher, new @ p["w"].mT), {"w": weight}, {"w": gradient})
    mine, theirs = (new @ weight.mT).softmax(-1) - teacher, (x @ weight.mT).softmax(-1) - y
    raw = ((mine @ theirs.mT) * (new @ x.mT)).mean(1).clamp(min=0)
    torch.testing.assert_close(found, raw / (raw.sum() + 1e-6))


def test_the_weights_of_an_adapter_are_what_one_image_at_a_time_gives(backbone: Backbone, blobs: Blobs) -> None:
    """Reverse mode, image by image, through the whole ViT."""
    learner = made(backbone, "finetune", QUICK)
    data = with_unlabelled(
        as_experience(*blobs([0, 1], 4), learner.preprocessing), blobs([0, 1], 3, 1)[0], learner.preprocessing
    )
    training = learner.begin(data)
    taught = taught_by(training)
    images, teacher, _ = taught.batch(4)
    losses, parameters = taught._losses(training, images, teacher)
    labelled = training.loss(training.forward(torch.stack([data.training[i][0] for i in range(8)])), data.labels)
    found = torch.autograd.grad(labelled, [*parameters.values()], allow_unused=True)
    gradients = {
        n: torch.zeros_like(p) if g is None else g for (n, p), g in zip(parameters.items(), found, strict=True)
    }
    weights = meta_weights(losses, parameters, gradients)
    each = []
    for place in range(len(images)):
        own = torch.autograd.grad(losses(parameters)[place], [*parameters.values()], allow_unused=True)
        each.append(sum(float((g * o).sum()) for g, o in zip(gradients.values(), own, strict=True) if o is not None))
    raw = torch.tensor(each).clamp(min=0)
    torch.testing.assert_close(weights, raw / (raw.sum() + 1e-6), atol=1e-5, rtol=1e-3)


def test_wrong_answers_weigh_next_to_nothing() -> None:
    draw = generator(0, "corrupted")
    centres = 3 * torch.randn(3, 16, generator=draw)
    labels, own = torch.arange(30) % 3, torch.arange(24) % 3
    x, new = (centres[y] + torch.randn(len(y), 16, generator=draw) for y in (labels, own))
    wrong = torch.arange(24) % 2 == 0
    teacher = F.one_hot(torch.where(wrong, (own + 1) % 3, own), 3).float() * 0.97 + 0.01
    head = torch.zeros(3, 16, requires_grad=True)
    (gradient,) = torch.autograd.grad(F.cross_entropy(x @ head.mT, labels), [head])
    weights = meta_weights(lambda p: divergence(teacher, new @ p["w"].mT), {"w": head}, {"w": gradient})
    assert float(weights[wrong].mean()) < 0.05 * float(weights[~wrong].mean())


def test_what_is_unlike_all_classes_counts_for_nothing() -> None:
    answers = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4]])
    found = PseudoLabels.of(answers, torch.tensor([0.5, 0.01, 0.06]))
    assert found.weights.tolist() == pytest.approx([0.9, 0.0, 0.6])
    use = UnlabelledUse.of(found, ["a", "b"])
    assert (use.given, use.used, use.classes) == (3, 2, {"a": 2})
    assert "2 of 3 images used" in use.words
    assert usual(torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 2.5, 9.0])).tolist() == [0.25, 0.75, 1.0]


@given(seed=st.integers(0, 50), directions=st.integers(0, 3))
def test_weighted_sums(seed: int, directions: int) -> None:
    """With weights of 1 those of all; with whole numbers those of repeated images; 0 is nothing."""
    draw = generator(seed, "sums")
    x, y = torch.randn(9, 3, generator=draw), torch.randint(2, (9,), generator=draw)
    times = torch.randint(3, (9,), generator=draw)
    found = weighted_sums(x, y, times, 2, directions)
    again = GramStatistics.of(x.repeat_interleave(times, 0), y.repeat_interleave(times), 2, directions)
    for name in ("total", "triangle", "targets", "counts"):
        torch.testing.assert_close(getattr(found, name), getattr(again, name))
    if directions:
        mine, theirs = ((s.scatter.mT @ s.scatter) for s in (found, again))  # type: ignore[union-attr]
        torch.testing.assert_close(mine, theirs)


# Learning ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "settings"), CASES)
def test_no_class_comes_of_them_and_it_is_said_how_many_counted(
    backbone: Backbone, blobs: Blobs, name: str, settings: dict[str, Any]
) -> None:
    learner = made(backbone, name, settings)
    more = blobs([0, 1, 4], 6, 1)[0]
    learner.learn(*blobs([0, 1], 6), unlabelled=more)
    assert learner.classes == (0, 1)
    use = learner.unlabelled_use
    assert use.given == 18
    assert 0 < use.used <= 18
    assert use.used == sum(use.classes.values())
    assert 0 < use.weight <= use.used
    plain, again = made(backbone, name, settings), made(backbone, name, settings)
    plain.learn(*blobs([0, 1], 6))
    again.learn(*blobs([0, 1], 6), unlabelled=more)
    assert_same(learner, again)
    with pytest.raises(AssertionError):
        assert_same(learner, plain)
    learner.learn(*blobs([2, 3], 6), unlabelled=blobs([0, 1, 2, 3], 6, 1)[0])
    assert learner.classes == (0, 1, 2, 3)
    learner.learn(*blobs([5], 6))
    assert learner.unlabelled_use is None


@pytest.mark.parametrize(("name", "settings"), [CASES[1], CASES[5]])
@pytest.mark.parametrize("empty", [None, []])
def test_without_any_it_is_the_same_model(
    backbone: Backbone, blobs: Blobs, name: str, settings: dict[str, Any], empty: Any
) -> None:
    one, other = made(backbone, name, settings), made(backbone, name, settings)
    one.learn(*blobs([0, 1], 6))
    other.learn(*blobs([0, 1], 6), unlabelled=empty)
    assert_same(one, other)
    assert other.unlabelled_use is None


def test_the_other_images_of_a_class_help_a_regression(backbone: Backbone) -> None:
    """Two labelled images a class among noise, and many that look like them."""

    def noisy(each: int, seed: int) -> tuple[Tensor, list[int]]:
        images, labels = coloured_squares([0, 1, 2], each, seed)
        noise = 60 * torch.randn(images.shape, generator=generator(seed, "noise"))
        return (images.float() + noise).clamp(0, 255).to(torch.uint8), labels

    gains = []
    for seed in range(4):
        few, test = noisy(2, 10 + seed), noisy(40, 30 + seed)
        plain, taught = made(backbone, "ridge", {}), made(backbone, "ridge", {})
        plain.learn(*few)
        taught.learn(*few, unlabelled=noisy(30, 50 + seed)[0])
        gains.append(taught.evaluate(*test) - plain.evaluate(*test))
    assert sum(gains) > 0


def test_what_cannot_be_is_one_error_and_changes_nothing(backbone: Backbone, blobs: Blobs) -> None:
    more = blobs([0, 1], 4, 1)[0]
    for name, settings, said in (
        ("simple_cil", {}, "simple_cil learns no unlabelled images: take strata"),
        ("slca", {}, "slca learns no unlabelled images"),
        ("strata", {"group": "C4"}, "not learned with a group"),
        ("finetune", {**QUICK, "epochs": 0}, "trains nothing in this experience"),
    ):
        learner = made(backbone, name, settings)
        with pytest.raises(InputError, match=said):
            learner.learn(*blobs([0, 1], 4), unlabelled=more)
        assert learner.classes == ()
    learner = made(backbone, "ridge", {})
    with pytest.raises(InputError, match="two classes, and a second labelled image of one of them"):
        learner.learn(*blobs([0, 1], 1), unlabelled=more)
    learner.learn(*blobs([0, 1], 30))
    before = learner.state
    with pytest.raises(InputError, match="unlabelled images are like a class that is learned: they seem to be of oth"):
        learner.learn(*blobs([0, 1], 30, 2), unlabelled=blobs([4, 5], 10, 1)[0])
    assert learner.state is before
