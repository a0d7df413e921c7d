"""The plugin that keeps answers, on one of Avalanche's own strategies."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from avalanche.training import Naive
from torch import nn

from continual.avalanche.compatibility import KeepAnswersPlugin
from continual.avalanche.streams import to_avalanche
from continual.errors import InputError
from tests.support.avalanche_fixtures import blob_stream, evaluator


def answers(backbone: Any, blobs: Any, **options: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Answers of a linear model on the test images of the first experience, after that and after the second."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 6))
    plugins = [KeepAnswersPlugin(**options)] if options else []
    benchmark, found = to_avalanche(blob_stream(blobs), backbone.preprocessing), []
    strategy = Naive(
        model=model, optimizer=torch.optim.SGD(model.parameters(), 0.02), train_mb_size=6, train_epochs=3,
        plugins=plugins, evaluator=evaluator(),
    )  # fmt: skip
    images = torch.stack([item[0] for item in benchmark.test_stream[0].dataset])
    for experience in benchmark.train_stream[:2]:
        strategy.train(experience)
        with torch.no_grad():
            found.append(model(images)[:, :2].softmax(1))
    return found[0], found[1]


@pytest.mark.parametrize("kind", ["plain", "focal"])
def test_it_holds_a_strategy_to_its_answers(backbone: Any, blobs: Any, kind: str) -> None:
    moved = [
        (a - b).abs().mean() for a, b in (answers(backbone, blobs), answers(backbone, blobs, weight=3.0, kind=kind))
    ]
    assert moved[1] < 0.8 * moved[0]
    assert torch.equal(answers(backbone, blobs)[1], answers(backbone, blobs, weight=0.0)[1])


def test_what_it_does_not_know_is_refused() -> None:
    with pytest.raises(InputError, match="'plain' or 'focal'"):
        KeepAnswersPlugin(kind="muscle")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a number from 0"):
        KeepAnswersPlugin(weight=-1)
