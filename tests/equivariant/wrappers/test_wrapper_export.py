"""Every wrapper as a graph with a free batch: torch.export, and ONNX in onnxruntime."""

from __future__ import annotations

import io
import warnings
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import equivariant as eq
from tests.support.zoo import WRAPPERS, Build, Micro, TinyUNet, vit

#: what is exported: (how to build it, side of its images, how its output moves)
MODELS: dict[str, tuple[Build, int, Any]] = {
    "scores": (Micro, 6, eq.Trivial()),
    "ViT": (lambda: vit(depth=2), 16, eq.Trivial()),
    "map": (TinyUNet, 8, eq.Maps()),
}
QUICK = ("equitune", "equizero")  # a mean and a choice; the others take half a minute
EVERY = [pytest.param(name, "scores", id=name, marks=() if name in QUICK else pytest.mark.slow) for name in WRAPPERS]
EVERY += [
    pytest.param(name, model, id=f"{name}, {model}", marks=pytest.mark.slow)
    for name in WRAPPERS
    for model in ("ViT", "map")
]


class Runs(nn.Module):
    """An ONNX file as a model."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.session = pytest.importorskip("onnxruntime").InferenceSession(file, providers=["CPUExecutionProvider"])

    def forward(self, x: Tensor) -> Tensor:
        (given,) = self.session.get_inputs()
        (answer,) = self.session.run(None, {given.name: x.numpy()})
        return torch.from_numpy(answer)


@pytest.mark.parametrize(("name", "model"), EVERY)
def test_a_graph_with_a_free_batch(name: str, model: str, tmp_path: Path) -> None:
    build, side, output = MODELS[model]
    wrapper = WRAPPERS[name](build().eval(), "C4", output=output).eval()
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(wrapper, (torch.randn(2, 3, side, side),), dynamic_shapes=({0: batch},))
    with warnings.catch_warnings(), redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")  # the exporter's own
        written = torch.onnx.export(program, dynamo=True, verbose=False)
    assert written is not None
    written.save(tmp_path / "wrapper.onnx")
    runs = Runs(tmp_path / "wrapper.onnx")
    for batch in (1, 2, 5):
        x = torch.randn(batch, 3, side, side)
        with torch.no_grad():
            expected = wrapper(x)
            torch.testing.assert_close(program.module()(x), expected, rtol=0, atol=1e-5)
            torch.testing.assert_close(runs(x), expected, rtol=0, atol=1e-5)
        eq.assert_equivariant(runs, "C4", x, output=output)
