"""The readouts of one trained MOS: those that the library has are the library's."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import mos_readouts as study
import mos_tokens
import numpy as np
import pytest
import torch
from torch import Tensor

from continual.adapters.bank import shared
from continual.backbones.loading import Backbone
from continual.datasets.streams import split_classes
from continual.methods.mos.learner import MOSLearner
from continual.methods.strata import StrataLearner

Blobs = Callable[..., tuple[Tensor, list[int]]]
QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 4, "bottleneck": 4, "precision": "float32", "alignment_epochs": 3}


def test_mos_and_strata_are_those_of_the_library(backbone: Backbone, blobs: Blobs, tmp_path: Path) -> None:
    stream = split_classes("toy", blobs(range(6), 5), blobs(range(6), 4, seed=1), sizes=2, seed=7)
    learners, read = mos_tokens.learned_and_read(backbone, stream, tmp_path, 7, **QUICK)
    again, same = mos_tokens.learned_and_read(backbone, stream, tmp_path, 7, **QUICK)
    assert torch.equal(read["test"]["under"], same["test"]["under"])
    assert again[-1].classes == learners[-1].classes
    found = study.measured(learners, read)
    assert len(found) == 3
    strata = StrataLearner(backbone)
    for number, (e, learner, own) in enumerate(zip(stream.experiences, learners, found, strict=True), 1):
        strata.learn(e.train_images, e.train_labels)
        seen = stream.experiences[:number]
        for name, method in (("mos", learner), ("frozen: strata", strata)):
            right = np.mean([method.evaluate(s.test_images, s.test_labels) for s in seen])
            assert own[name] == pytest.approx(right), name
        assert own["frozen: strata"] <= own["frozen: either right"]
        assert own["frozen: experience"] >= own["frozen: strata"]


def test_tokens_are_read_under_the_adapter(backbone: Backbone, blobs: Blobs) -> None:
    learner = MOSLearner(backbone, **QUICK)
    learner.learn(*blobs([0, 1], 5))
    images = torch.stack([learner.preprocessing.evaluation()(image) for image in blobs([0, 1], 2)[0]])
    adapter = shared(learner.settings.adapter_kind, learner.state.bank[0])
    with torch.no_grad():
        tokens = mos_tokens.tokens(learner.extractor, images, adapter)
        wanted = learner.extractor.features(learner.extractor.stem(images), adapter)
        plain = mos_tokens.tokens(learner.extractor, images)
    norm = backbone.frozen.network.norm
    ours = tokens[:, -64:-32] * norm.weight + norm.bias
    # Of tokens as small as these the norm's own summand matters.
    assert torch.nn.functional.cosine_similarity(ours, wanted).min() > 0.99999
    assert torch.allclose(ours, wanted, rtol=0.02)
    assert not torch.allclose(tokens, plain, rtol=0.02)


def test_within_an_experience_probabilities_sum_to_one(backbone: Backbone) -> None:
    x, z = torch.randn(12, 6, generator=torch.Generator().manual_seed(0)), torch.zeros(3, 6)
    labels = torch.arange(12) % 3
    found = study.local_ridge(x + 3 * torch.nn.functional.one_hot(labels, 6), labels, z)
    assert torch.allclose(found.exp().sum(1), torch.ones(3))
    own = torch.tensor([[True, True, False]])
    values = study.within(torch.tensor([[0.0, 0.0, 9.0]]), own)
    assert torch.allclose(values, torch.tensor([[-np.log(2), -np.log(2), 0.0]], dtype=torch.float32))
