"""The restated procedure in `benchmarks/` gives what the published code gave: the ratios are against the real thing."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest
import timm
import torch

from tests.parity.test_mos_reference import close, golden  # noqa: F401 - a fixture

pytestmark = pytest.mark.shared
HERE = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def reference() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference_mos", HERE / "benchmarks" / "reference_mos.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_features_scores_and_one_merge(reference: ModuleType, golden: dict[str, torch.Tensor]) -> None:  # noqa: F811
    width, heads, depth, stacks, _, size, patch, _, bottleneck = golden["meta"].tolist()
    vit = timm.create_model(
        "vit_base_patch16_224", num_classes=0, img_size=size, patch_size=patch, embed_dim=width, depth=depth,
        num_heads=heads,
    )  # fmt: skip
    state = {k.removeprefix("backbone/"): v for k, v in golden.items() if k.startswith("backbone/")}
    head = state.pop("head.weight"), state.pop("head.bias")
    vit.load_state_dict(state)
    mos = reference.ReferenceMOS(vit, bottleneck).eval()

    def load(stack: torch.nn.Module, prefix: str) -> torch.nn.Module:
        stack.load_state_dict({name: golden[f"{prefix}/{name.replace('.', '/', 1)}"] for name in stack.state_dict()})
        return stack

    for t in range(stacks):
        mos.keep(load(mos.new_stack().eval(), f"adapter/{t}"))
    with torch.no_grad():
        for t, stack in enumerate(mos.finished):
            close(mos.features(golden["images"], stack), golden["features/adapter"][:, t])
        scores = mos.predict(golden["images"], head, golden["prototypes"], golden["class_to_task"])
    close(scores, golden["ensemble/scores"])
    load(mos.working, "merge/before")
    mos.merge()
    for name, tensor in mos.working.state_dict().items():
        close(tensor, golden[f"merge/after/{name.replace('.', '/', 1)}"])
