"""Every registered method on a backbone that was compressed or grown: learns, is stored, ported to and exported."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx
import pytest
import torch

import continual
from continual.backbones.loading import Backbone, save_backbone
from continual.export.int8 import quantised
from continual.export.onnx_runner import Runner
from continual.export.writing import export_onnx
from continual.files import read_header
from continual.learning.model_file import WITH_PARTS
from continual.methods import methods
from continual.resizing.compressing import compressed
from continual.resizing.growing import grown
from continual.testing import coloured_squares, synthetic_case, tiny_backbone
from continual.testing.assertions import assert_close, assert_same, assert_valid
from continual.testing.cases import reloaded
from tests.conformance.test_laws import QUICK

IMAGES = coloured_squares(range(8), 4)[0]
FIRST = ("mos", "strata")  #: trained and in closed form
RESIZED = {
    "compressed": lambda: compressed(tiny_backbone(), IMAGES, ratio=1.3, epochs=1),
    "grown": lambda: grown(tiny_backbone(), width=64, depth=3),
}


@pytest.fixture(scope="module", params=RESIZED)
def resized(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    made = RESIZED[request.param]()
    return save_backbone(made, tmp_path_factory.mktemp("resized") / f"{request.param}.safetensors")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in FIRST else pytest.mark.slow) for name in methods()]
)
def test_a_method_works_on_it(name: str, resized: Backbone, tmp_path: Path) -> None:
    kind = methods()[name]
    settings = {k: v for k, v in QUICK.items() if k in kind.settings_type.model_fields}
    case = synthetic_case(kind, resized, **settings)
    learner = case.learned
    answers = learner.predict(case.images)
    assert_valid(learner, case.images)
    if learner.exemplar_free:
        assert_same(answers, reloaded(learner, embed=True).predict(case.images), "embedded")
        path = tmp_path / "model.safetensors"
        learner.save(path)
        assert int(read_header(path).metadata["version"]) >= WITH_PARTS
        again = continual.load(path)
        assert again.backbone.recipe == resized.recipe
        assert_same(answers, again.predict(case.images), "from its file")
        again.learn(*case.experiences[2])
        assert_valid(again, case.images)
    agreed = export_onnx(learner, tmp_path / "model.onnx")
    assert agreed.holds
    onnx.save(quantised(onnx.load(tmp_path / "model.onnx")), tmp_path / "small.onnx")
    inputs = torch.randn(4, *learner.preprocessing.shape).numpy()
    assert Runner(tmp_path / "small.onnx").run(inputs)["scores"].shape == (4, len(learner.classes))
    if learner.unportable or learner.adapted:
        return
    old = synthetic_case(kind, **settings).learned
    old.port(resized, torch.cat([images for images, _ in case.experiences]))
    assert old.backbone is resized
    assert_valid(old, case.images)


@pytest.mark.parametrize("adapter", ["lora", "hut", "adalora", "compacter", "ladder"])
def test_every_kind_of_adapter_works_on_it(adapter: str, resized: Backbone) -> None:
    from continual.methods.finetune import FinetuneLearner

    settings: dict[str, Any] = {k: v for k, v in QUICK.items() if k in FinetuneLearner.settings_type.model_fields}
    settings.pop("bottleneck", None)
    case = synthetic_case(FinetuneLearner, resized, **settings, adapter=adapter)
    assert_valid(case.learned, case.images)


def test_beside_another_backbone(resized: Backbone, tmp_path: Path) -> None:
    other = save_backbone(tiny_backbone(1), tmp_path / "other.safetensors")
    learner = methods()["ridge"]([resized, other])  # type: ignore[arg-type]
    learner.learn(*coloured_squares([0, 1], 4))
    answers = learner.predict(IMAGES)
    learner.save(tmp_path / "model.safetensors")
    assert_close(answers, continual.load(tmp_path / "model.safetensors").predict(IMAGES))
    learner.save(tmp_path / "embedded.safetensors", embed_backbone=True)
    assert_close(answers, continual.load(tmp_path / "embedded.safetensors").predict(IMAGES))
