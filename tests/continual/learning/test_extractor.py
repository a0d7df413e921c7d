"""Features of a data set."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.utils.data import TensorDataset

from continual.errors import LearningError
from continual.learning.extractor import extract


def test_extract_joins_batches_in_order() -> None:
    data = TensorDataset(torch.arange(5.0)[:, None], torch.tensor([4, 3, 2, 1, 0]))
    calls: list[tuple[str, int, int]] = []

    def compute(images: Tensor, labels: object) -> list[Tensor]:
        assert not torch.is_grad_enabled()
        return [images, 2 * images]

    (once, twice), labels = extract(
        data, compute, batch_size=2, device=torch.device("cpu"), progress=lambda *a: calls.append(a[:3])
    )
    assert once.flatten().tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(twice, 2 * once)
    assert labels == [4, 3, 2, 1, 0]
    assert calls == [("collecting features", n, 5) for n in (2, 4, 5)]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_features_that_are_not_finite_are_refused(bad: float) -> None:
    data = TensorDataset(torch.zeros(2, 1), torch.zeros(2))
    with pytest.raises(LearningError, match="NaN or infinite"):
        extract(data, lambda x, _: [x, x + bad], batch_size=2, device=torch.device("cpu"))
