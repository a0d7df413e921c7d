"""The losses against their definitions."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from continual.losses.base import Batch
from continual.losses.cross_entropy import CrossEntropy
from continual.losses.feature_contrast import feature_contrast
from continual.seeding import generator


def normal(*shape: int, key: str = "") -> torch.Tensor:
    return torch.randn(*shape, generator=generator(0, key))


def test_cross_entropy_is_cross_entropy_over_the_active_classes() -> None:
    logits, active = normal(4, 5).requires_grad_(), torch.tensor([False, True, False, True, True])
    targets = torch.tensor([1, 3, 4, 4])
    loss = CrossEntropy()(Batch(normal(4, 6), logits, targets, active))
    torch.testing.assert_close(loss, F.cross_entropy(logits[:, active], torch.tensor([0, 1, 2, 2])))
    (gradient,) = torch.autograd.grad(loss, logits)
    assert not gradient[:, ~active].any()
    assert gradient[:, active].all()


@pytest.mark.parametrize("old", [0, 3])
def test_feature_contrast_is_cross_entropy_of_each_row_with_itself(old: int) -> None:
    features, means = normal(4, 6, key="z"), normal(old, 6, key="m")
    rows = torch.cat([means, features]).tolist()
    expected = 0.0
    for i, row in enumerate(rows):
        alike = torch.tensor([sum(a * b for a, b in zip(row, other, strict=True)) / 0.8 for other in rows])
        expected -= float(alike.log_softmax(0)[i]) / len(rows)
    assert float(feature_contrast(features, means if old else None)) == pytest.approx(expected, rel=1e-5)


def test_feature_contrast_is_least_when_the_features_are_apart() -> None:
    apart, together = 3 * torch.eye(4), 3 * torch.eye(4)[:1].expand(4, 4)
    assert feature_contrast(apart, None) < 0.01
    assert float(feature_contrast(together, None)) == pytest.approx(torch.log(torch.tensor(4.0)).item())
