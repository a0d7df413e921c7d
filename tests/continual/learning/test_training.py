"""One experience's training: what it starts from, what it optimises, and when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from continual.backbones.loading import Backbone
from continual.data.inputs import as_experience
from continual.errors import LearningError
from continual.learning.loop import run
from continual.learning.training import Output
from continual.methods.finetune import FinetuneLearner, FinetuneTraining

Blobs = Callable[..., tuple[Tensor, list[int]]]
QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 5, "bottleneck": 4}


@pytest.fixture
def begin(backbone: Backbone, blobs: Blobs) -> Callable[..., FinetuneTraining]:
    """Begin a training on some classes, after some were learned already."""

    def make(classes: list[int], already: list[int] | None = None, **settings: Any) -> FinetuneTraining:
        learner = FinetuneLearner(backbone, **{**QUICK, **settings})
        if already:
            learner.learn(*blobs(already, 3))
        return learner.begin(as_experience(*blobs(classes, 3), backbone.preprocessing))  # type: ignore[return-value]

    return make


def test_new_classes_follow_the_old_ones_sorted(begin: Callable[..., FinetuneTraining]) -> None:
    training = begin([9, 2, 5], already=[7, 5])
    assert training.new_classes == [2, 9]
    assert training.classes == (5, 7, 2, 9)
    assert training.index == {5: 0, 7: 1, 2: 2, 9: 3}
    assert training.class_experience() == (0, 0, 1, 1)
    assert training.progress_counts() == {
        "classes": (5, 7, 2, 9),
        "class_experience": (0, 0, 1, 1),
        "experiences": 2,
        "updates": 2,
        "choice": None,
        "fitted": {},
        "value_range": None,
        "ignored": None,
    }


def test_the_head_keeps_its_rows_and_draws_new_ones(begin: Callable[..., FinetuneTraining]) -> None:
    training = begin([2, 3], already=[0, 1])
    before = training.before.head
    assert before is not None
    assert torch.equal(training.head.weight[:2], before.weight)
    assert torch.equal(training.head.bias[:2], before.bias)
    assert not training.head.bias[2:].any()
    assert float(training.head.weight[2:].detach().std()) == pytest.approx(0.02, rel=0.4)
    assert training.head.weight.shape == (4, training.extractor.backbone.width)


def test_adapters_train_at_lr_and_the_head_at_a_share_of_it(begin: Callable[..., FinetuneTraining]) -> None:
    training = begin([0, 1], lr=0.2, head_lr_ratio=0.25, momentum=0.5, weight_decay=0.01, epochs=4)
    optimizer = training.make_optimizer()
    assert isinstance(optimizer, torch.optim.SGD)
    stack, head = optimizer.param_groups
    assert (stack["lr"], head["lr"]) == (0.2, pytest.approx(0.05))
    assert (stack["momentum"], stack["weight_decay"]) == (0.5, 0.01)
    assert stack["params"] == list(training.adapter.parameters())
    assert head["params"] == list(training.head.parameters())
    scheduler = training.make_scheduler(optimizer)
    rates = []
    for _ in range(4):
        rates.append(stack["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.2, 0.2 * (2 + 2**0.5) / 4, 0.1, 0.2 * (2 - 2**0.5) / 4])
    assert stack["lr"] == pytest.approx(0)


def test_images_of_inactive_classes_take_no_part_in_the_loss(begin: Callable[..., FinetuneTraining]) -> None:
    training = begin([1, 2], already=[0, 1], logits="new")
    assert training.active.tolist() == [False, False, True]
    logits = torch.randn(3, 3, requires_grad=True)
    features = torch.randn(3, 32)
    (gradient,) = torch.autograd.grad(training.loss(Output(features, logits), [1, 2, 0]), logits)
    assert not gradient[[0, 2]].any()
    nothing = training.loss(Output(features, logits), [1, 0, 0])
    assert nothing.detach() == 0
    assert not torch.autograd.grad(nothing, logits)[0].any()


def test_the_dropout_of_an_epoch_is_decided_by_its_number(begin: Callable[..., FinetuneTraining]) -> None:
    training = begin([0, 1], adapter_dropout=0.5)
    torch.nn.init.normal_(training.adapter.up_weight)
    images = torch.rand(2, 3, 16, 16)

    def features(epoch: int) -> Tensor:
        training.start_epoch(epoch)
        return training.forward(images).features

    assert torch.equal(features(0), features(0))
    assert not torch.equal(features(0), features(1))


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_a_loss_that_is_not_finite_is_refused_with_the_cure(
    begin: Callable[..., FinetuneTraining], value: float
) -> None:
    training = begin([0, 1], lr=0.7)
    training.check_loss(torch.tensor(3.0, requires_grad=True))
    with pytest.raises(LearningError, match=r"became (nan|inf) in experience 1: lower lr \(now 0\.7\)"):
        training.check_loss(torch.tensor(value, requires_grad=True))


def test_the_loop_steps_every_batch_of_every_epoch_and_says_so(begin: Callable[..., FinetuneTraining]) -> None:
    training = begin([0, 1])  # 6 images in batches of 5
    events: list[Any] = []
    training.start_epoch = lambda epoch: events.append(f"epoch {epoch}")  # type: ignore[method-assign]
    training.after_step = lambda: events.append("step")  # type: ignore[method-assign]
    run(training, lambda stage, done, total, figures: events.append((stage, done, total, *figures)))
    steps = [("training", n, 4, "loss", "waiting") for n in (1, 2, 3, 4)]
    assert events == ["epoch 0", "step", steps[0], "step", steps[1], "epoch 1", "step", steps[2], "step", steps[3]]


def test_no_epochs_train_nothing(begin: Callable[..., FinetuneTraining]) -> None:
    training = begin([0, 1], epochs=0)
    before = training.adapter.frozen()
    run(training, lambda *_: pytest.fail("there was a step"))
    assert all(torch.equal(before[name], now) for name, now in training.adapter.frozen().items())
