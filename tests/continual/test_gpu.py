"""The learner on a CUDA device agrees with the one on the CPU."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from continual.methods import load
from continual.methods.mos.learner import MOSLearner

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_learning_and_predicting_on_cuda(backbone: Any, blobs: Any, tmp_path: Any, precision: str) -> None:
    learner = MOSLearner(backbone, device="cuda", epochs=3, batch_size=8, precision=precision)
    learner.learn(*blobs([0, 1]))
    learner.learn(*blobs([2, 3]))
    images, labels = blobs([0, 1, 2, 3], 8, seed=1)
    there = learner.predict(images)
    assert learner.evaluate(images, labels) > 0.5

    learner.save(tmp_path / "model.safetensors")
    here = load(tmp_path / "model.safetensors", backbone, device="cpu").predict(images)
    tolerance = 1e-4 if precision == "float32" else 5e-2
    assert (here.scores - there.scores).abs().max() < tolerance


def test_two_runs_on_cuda_give_the_same_model(backbone: Any, blobs: Any) -> None:
    scores = []
    for _ in range(2):
        learner = MOSLearner(backbone, device="cuda", epochs=2, batch_size=8)
        learner.learn(*blobs([0, 1]))
        scores.append(learner.predict(blobs([0, 1], 4, seed=1)[0]).scores)
    assert torch.allclose(*scores, atol=1e-5)
