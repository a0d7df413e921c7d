"""Streams of domains, from folders DOMAIN/CLASS: every registered method learns the same classes in another light."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from PIL import Image

from continual.datasets.streams import Stream
from continual.experiments.config import RunConfig, load_config
from continual.experiments.run import run_cell, streams
from continual.methods import methods
from continual.metrics.accuracy import seen_accuracy
from continual.testing import coloured_squares, tiny_backbone
from tests.conformance.test_laws import QUICK

LIGHTS = {"noon": (1.0, 0), "dusk": (0.4, 0), "fog": (0.5, 120)}  #: domain -> contrast, and brightness that is added
NAMES = ("bee", "fly", "wasp")
CLOSED = ("ridge", "simple_cil", "strata")  #: sums, which know no order
CONFIG = """
title = "Domains"
[data]
source = "folder"
train = "train"
test = "test"
domains = true
[stream]
by = "domains"
order = ["noon", "dusk", "fog"]
[backbone]
name = "vit_tiny_patch16_224"
"""


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> RunConfig:
    folder = tmp_path_factory.mktemp("domains")
    for seed, part in enumerate(("train", "test")):
        images, labels = coloured_squares(range(len(NAMES)), 6, seed)
        for (domain, (contrast, added)), number in ((light, n) for light in LIGHTS.items() for n in range(len(images))):
            path = folder / part / domain / NAMES[labels[number]] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = (contrast * images[number] + added).clamp(0, 255).to(torch.uint8)
            Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(path)
    rows = [f"[methods.{name}]\n" + _quick(name) for name in methods()]
    (folder / "run.toml").write_text(CONFIG + "".join(rows), encoding="utf-8")
    return load_config(folder / "run.toml")


def _quick(name: str) -> str:
    own = {key: value for key, value in QUICK.items() if key in methods()[name].settings_type.model_fields}
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in own.items())


@pytest.fixture(scope="module")
def stream(config: RunConfig) -> Stream:
    return streams(config)[config.seeds[0]]


def _cell(name: str, config: RunConfig, stream: Stream) -> tuple[Any, Any]:
    learner, (cell, *_) = run_cell(name, config.methods[name], tiny_backbone(), stream, 1)
    return learner, cell


@pytest.mark.parametrize("name", methods())
def test_a_method_learns_domain_after_domain(name: str, config: RunConfig, stream: Stream) -> None:
    learner, cell = _cell(name, config, stream)
    assert sorted(learner.classes) == [*NAMES], "a class of another domain is no new class"
    assert [len(e.answers) for e in cell.evaluations] == [18, 36, 54], "all domains so far are tested"
    if name in CLOSED:  # two epochs on a random network teach the others nothing
        assert seen_accuracy(cell)[-1] >= 0.5, "chance is a third"


@pytest.mark.parametrize("name", CLOSED)
def test_in_closed_form_the_order_of_domains_does_not_matter(name: str, config: RunConfig, stream: Stream) -> None:
    wanted = config.stream.model_copy(update={"order": ["fog", "noon", "dusk"]})
    other = streams(config.model_copy(update={"stream": wanted}))[config.seeds[0]]
    images = stream.experiences[1].test_images
    (one, _), (two, _) = (_cell(name, config, s) for s in (stream, other))
    first, second = one.predict(images), two.predict(images)
    assert [one.classes[c] for c in first.scores.argmax(1)] == [two.classes[c] for c in second.scores.argmax(1)]
    back = [two.classes.index(label) for label in one.classes]
    assert torch.allclose(first.scores, second.scores[:, back], atol=1e-4)
