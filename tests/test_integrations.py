"""The examples that speak with other tools: Label Studio's requests, and FiftyOne's samples."""

from __future__ import annotations

import base64
import importlib.util
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi.testclient import TestClient
from PIL import Image

import continual
from continual.lifecycle import versions
from continual.methods.strata import StrataLearner
from continual.testing import coloured_squares
from tests.conftest import ROOT
from tests.support.served import BACKBONE, taught


def example(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def picture(kind: int, seed: int = 60) -> Image.Image:
    return Image.fromarray(coloured_squares([kind], 1, seed=seed)[0][0].permute(1, 2, 0).numpy())


def task(kind: int) -> dict[str, Any]:
    file = io.BytesIO()
    picture(kind).save(file, "PNG")
    return {"id": kind, "data": {"image": f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"}}


def test_label_studio_gets_answers_and_teaches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, learner = tmp_path / "m.safetensors", taught(StrataLearner(BACKBONE), [0, 1], [2])
    learner.save(model)
    client = TestClient(example("label_studio").make_app(model, learner))
    assert client.get("/health").json()["status"] == "UP"
    assert client.post("/setup", json={"project": "1", "schema": "<View/>"}).json()["model_version"]
    found = client.post("/predict", json={"tasks": [task(2), task(0)], "params": {}}).json()["results"]
    assert [row["result"][0]["value"]["choices"] for row in found] == [["class 2"], ["class 0"]]
    assert 0 < found[0]["score"] <= 1
    annotation = {"result": [{"from_name": "choice", "type": "choices", "value": {"choices": ["nut"]}}]}
    event = {"action": "ANNOTATION_CREATED", "task": task(5), "annotation": annotation}
    assert client.post("/webhook", json=event).json() == {"learned": "nut", "classes": 4}
    assert continual.load(model, BACKBONE).classes[-1] == "nut"
    assert len(versions.versions(model)) == 2
    assert client.post("/webhook", json={"action": "PROJECT_UPDATED"}).json() == {"learned": None}
    elsewhere = {"tasks": [{"data": {"image": "http://evil.example/a.png"}}]}
    assert client.post("/predict", json=elsewhere).status_code == 400
    monkeypatch.setenv("LABEL_STUDIO_URL", "http://127.0.0.1:1/")
    assert client.post("/predict", json=elsewhere).status_code == 403
    monkeypatch.setenv("EQUIMOS_IMAGES", str(tmp_path))
    outside = {"tasks": [{"data": {"image": "/data/local-files/?d=../../etc/passwd"}}]}
    assert client.post("/predict", json=outside).status_code == 404


class Sample(SimpleNamespace):
    """What is used of a FiftyOne sample."""

    def __getitem__(self, field: str) -> Any:
        return getattr(self, field, None)

    def __setitem__(self, field: str, value: Any) -> None:
        setattr(self, field, value)

    def save(self) -> None:
        self.saved = True


def test_fiftyone_samples_get_labels_and_teach(tmp_path: Path) -> None:
    learner, labels = taught(StrataLearner(BACKBONE), [0, 1], [2]), example("fiftyone_labels")
    samples = []
    for kind in (0, 2, 5):
        picture(kind).save(tmp_path / f"{kind}.png")
        samples.append(Sample(filepath=str(tmp_path / f"{kind}.png"), tags=["mine"]))
    made = labels.annotate(samples, learner, make=lambda label, sure: SimpleNamespace(label=label, confidence=sure))
    assert made == 3
    assert [sample.equimos.label for sample in samples[:2]] == ["class 0", "class 2"]
    assert all(0 < sample.equimos.confidence <= 1 and sample.saved and "mine" in sample.tags for sample in samples)
    samples[2].ground_truth = SimpleNamespace(label="nut")
    samples[0].ground_truth = SimpleNamespace(label="class 0")
    assert labels.correct(samples, learner) == {"class 0": 1, "nut": 1}
    assert learner.classes[-1] == "nut"
    assert learner.predict([samples[2].filepath]).labels == ["nut"]
