"""Images of files are opened and prepared once for all cells of a run, and nothing else changes."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
import torch

from continual.backbones.loading import Backbone
from continual.data.inputs import ExperienceData, PreparedImages, as_experience
from continual.experiments import prepared, run
from continual.experiments.config import RunConfig
from continual.experiments.prepared import PreparedOnce
from continual.experiments.run import run_config
from continual.experiments.timing import Clock
from tests.continual.experiments.test_run import measured


@pytest.fixture
def config(blob_run: Callable[..., RunConfig]) -> RunConfig:
    made = blob_run("[methods.simple_cil]\n[methods.strata]\n", classes=4)
    cropped = made.backbone.model_copy(update={"preprocessing": {"crop_scale": [0.5, 1.0]}})  # as from a file: a list
    return made.model_copy(update={"backbone": cropped})


def test_all_cells_share_what_was_prepared(config: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "inference_cost", lambda *_, **__: (0.0, None))  # opens its images all the same
    with monkeypatch.context() as without:
        without.setattr(prepared, "LIMIT", 0)
        without.setattr(PreparedOnce.__init__, "__defaults__", (0,))
        expected = run_config(config)
    opened: Counter[str] = Counter()
    real = PreparedImages.__getitem__

    def note(self: PreparedImages, index: int) -> Any:
        if "/test/" in str(raw := self.images[index]):
            opened[str(raw)] += 1
        return real(self, index)

    monkeypatch.setattr(PreparedImages, "__getitem__", note)
    found = run_config(config)
    assert measured(found) == measured(expected)
    assert len(opened) == 16
    assert {*opened.values()} == {1}


def test_times_are_as_if_all_had_been_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "perf_counter", lambda: 0.0)
    once = PreparedOnce()
    once.saved = 5.0
    clock = Clock(None, once)
    once.saved += 3.0
    assert clock.saved() == clock.seconds() == 3.0


def test_what_does_not_fit_is_prepared_again(backbone: Backbone, config: RunConfig) -> None:
    (stream,) = run.streams(config).values()
    experience = stream.experiences[0]
    data = as_experience(experience.train_images, experience.train_labels, backbone.preprocessing)
    size = data.evaluation[0][0].nbytes
    for limit, kept in ((0, 0), (size, 1), (3 * size, 3)):
        once = PreparedOnce(limit)
        own: ExperienceData = once.evaluated(data)
        for _ in range(2):
            for index in range(len(data.labels)):
                assert torch.equal(own.evaluation[index][0], data.evaluation[index][0])
                assert own.evaluation[index][1] == data.labels[index]
        assert once.held == kept * size
        assert (once.saved > 0) == (kept > 0)
    assert once.evaluated(own) is own  # what is no image of a file stays as it is
