"""SLCA: the logits' normalisation in NumPy, what learns, and what stays as it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import continual
from continual.backbones.loading import fingerprint
from continual.data.inputs import as_experience
from continual.methods.slca import SLCALearner, normalised_logits

SETTINGS: dict[str, Any] = {"epochs": 2, "batch_size": 4, "lr": 0.05, "alignment_epochs": 1}


def test_logits_are_divided_by_the_mean_length_of_their_experiences() -> None:
    logits, experience = np.random.RandomState(0).randn(6, 5).astype(np.float32), np.array([0, 0, 1, 2, 2])
    expected = np.zeros_like(logits)
    for i, row in enumerate(logits):
        lengths = [np.sqrt((row[experience == t] ** 2).sum()) for t in range(3)]
        expected[i] = row / (np.mean(lengths) * 0.1)
    found = normalised_logits(torch.from_numpy(logits), torch.from_numpy(experience), 0.1)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-4)


def test_logits_of_zero_have_a_finite_gradient() -> None:
    logits = torch.zeros(1, 3, requires_grad=True)
    normalised_logits(logits, torch.tensor([0, 0, 1])).sum().backward()
    assert logits.grad is not None
    assert torch.isfinite(logits.grad).all()


def test_alignment_takes_the_normalised_logits(backbone: Any, blobs: Any, monkeypatch: Any) -> None:
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr("continual.methods.bases.alignment.align", lambda *a, **k: calls.append(k) or a[0])
    learner = SLCALearner(backbone, **SETTINGS, temperature=0.2)
    learner.learn(*blobs([0, 1], 4))
    assert not calls  # there is nothing to align a first head with
    learner.learn(*blobs([2], 4))
    logits = torch.randn(4, 3)
    expected = normalised_logits(logits, torch.tensor([0, 0, 1]), 0.2)
    torch.testing.assert_close(calls[0]["rescale"](logits), expected)


def test_the_backbone_learns_in_the_state_and_stays_as_it_was(backbone: Any, blobs: Any, tmp_path: Any) -> None:
    vit = backbone.frozen.network
    before = fingerprint(vit)
    learner = SLCALearner(backbone, **SETTINGS)
    learner.learn(*blobs([0, 1], 4))
    assert fingerprint(vit) == before
    weights = learner.state.backbone
    assert weights is not None
    assert weights.keys() == dict(vit.named_parameters()).keys()
    assert not torch.equal(weights["blocks.0.attn.qkv.weight"], vit.blocks[0].attn.qkv.weight)
    assert learner.memory()["backbone"] == 4 * sum(p.numel() for p in vit.parameters())

    answers = learner.predict(blobs([0, 1], 2, seed=1)[0])
    learner.save(tmp_path / "model", embed_backbone=True)
    loaded = continual.load(tmp_path / "model")
    assert torch.equal(loaded.predict(blobs([0, 1], 2, seed=1)[0]).scores, answers.scores)


@pytest.mark.parametrize(
    ("part", "learns", "stays"),
    [
        ("norms", ["blocks.0.norm1.weight", "norm.bias"], ["blocks.1.mlp.fc1.weight", "pos_embed"]),
        ("last_blocks", ["blocks.1.mlp.fc1.weight", "norm.weight"], ["blocks.0.mlp.fc1.weight", "pos_embed"]),
    ],
)
def test_a_part_of_the_backbone_may_learn(part: str, learns: Any, stays: Any, backbone: Any, blobs: Any) -> None:
    learner = SLCALearner(backbone, **SETTINGS, part=part, last_blocks=1)
    learner.learn(*blobs([0, 1], 4))
    weights = learner.state.backbone
    assert weights is not None
    assert set(learns) <= weights.keys()
    assert not set(stays) & weights.keys()
    assert weights.keys() <= dict(backbone.frozen.network.named_parameters()).keys()


def test_the_backbone_is_slow_and_both_slow_down_near_the_end(backbone: Any, blobs: Any) -> None:
    learner = SLCALearner(backbone, epochs=20, lr=0.02)
    training = learner.begin(as_experience(*blobs([0], 2), backbone.preprocessing))
    assert [group["lr"] for group in training.parameter_groups()] == pytest.approx([0.0002, 0.02])
    optimizer = training.make_optimizer()
    scheduler = training.make_scheduler(optimizer)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[1]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([0.02] * 18 + [0.002] * 2)
