"""A learner with adapters of any kind is exported, retrieval and symmetry included."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from continual import adapters
from continual.export import writing
from continual.export.onnx_runner import Runner
from continual.statistics.head import Head
from tests.conformance.test_adapter_kinds import SMALL
from tests.continual.export.test_export import Learner, differences, learned, noise

KINDS = [name for name in adapters.KINDS.all() if name != "bottleneck"]


def wandering(learner: Learner) -> Learner:
    """The same with adapters moved at random and a random head, so that images wander from adapter to adapter."""
    draw = torch.Generator().manual_seed(2)

    def moved(name: str, tensor: torch.Tensor) -> torch.Tensor:
        return tensor + 0.3 * torch.randn(tensor.shape, generator=draw) if tensor.is_floating_point() else tensor

    bank = tuple({k: moved(k, v) for k, v in adapter.items()} for adapter in learner.state.bank)
    head = Head(torch.randn(7, 32, generator=draw), torch.zeros(7))
    learner.state = replace(learner.state, bank=bank, head=head)
    return learner


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("settings", [{}, {"group": "C4", "retrieved_views": 1}], ids=str)
def test_retrieval_of_any_kind(kind: str, settings: dict[str, Any], tmp_path: Path) -> None:
    learner = wandering(learned("mos", adapter=kind, adapter_args=SMALL.get(kind, {}), **settings))
    writing.export_onnx(learner, tmp_path / "model.onnx")
    assert max(differences(learner, Runner(tmp_path / "model.onnx"), noise(20)).values()) < 1e-4
    rounds = learner.score_batch(noise(20)).refinements
    assert rounds is not None
    assert bool(rounds.any()), "images must wander"


@pytest.mark.parametrize(
    "kind", [pytest.param(kind, marks=[] if kind == "lora" else pytest.mark.slow) for kind in KINDS]
)
def test_a_method_of_one_pass_with_any_kind(kind: str, tmp_path: Path) -> None:
    learner = learned("finetune", adapter=kind, adapter_args=SMALL.get(kind, {}))
    writing.export_onnx(learner, tmp_path / "model.onnx")
    assert max(differences(learner, Runner(tmp_path / "model.onnx"), noise(5)).values()) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_every_subspace_with_any_kind(kind: str, tmp_path: Path) -> None:
    learner = learned("ease", adapter=kind, adapter_args=SMALL.get(kind, {}))
    writing.export_onnx(learner, tmp_path / "model.onnx")
    assert max(differences(learner, Runner(tmp_path / "model.onnx"), noise(5)).values()) < 1e-4
