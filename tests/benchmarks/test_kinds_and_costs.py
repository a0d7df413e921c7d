"""Kinds of adapters are compared with what is there without them, and costs are those of what was run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from adapter_kinds import NONE, Learner, made, measured, memory, summary
from ladder_cost import answers, training

from continual.backbones.loading import Backbone
from continual.datasets.streams import Experience, Stream

QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 4, "lr": 0.1}
LADDER = "ladder reduction=16"


@pytest.fixture
def stream(blobs: Callable[..., tuple[torch.Tensor, list[int]]]) -> Stream:
    def experience(*classes: int) -> Experience:
        images, labels = blobs(classes, per_class=4)
        return Experience(list(images), labels, list(images), labels, classes)

    return Stream("blobs", (experience(0, 1), experience(2, 3)), (0, 1, 2, 3))


def scores(learner: Learner, stream: Stream) -> torch.Tensor:
    for part in stream.experiences:
        learner.learn(part.train_images, part.train_labels)
    return learner.predict(stream.experiences[0].test_images).scores


@pytest.mark.parametrize("kind", ["bottleneck", "lora", f"{LADDER} cached_views=0"])
def test_one_row_stands_for_all_kinds_that_are_off(kind: str, backbone: Backbone, stream: Stream) -> None:
    off = scores(made("mos", f"{kind} off", backbone, **QUICK), stream)
    also = scores(made("mos", f"{LADDER} cached_views=0 off", backbone, **QUICK), stream)
    torch.testing.assert_close(off, also, rtol=1e-4, atol=1e-5)
    on = scores(made("mos", kind, backbone, **QUICK), stream)
    assert (on - also).abs().max() > 1e-4


def test_a_row_names_settings_of_its_kind(backbone: Backbone) -> None:
    learner = made("ease", "lora rank=2 lr_scale=0.5", backbone)
    assert (learner.settings.adapter_kind.rank, learner.settings.adapter_kind.lr_scale) == (2, 0.5)
    assert made("mos", "bottleneck off", backbone).settings.adapter_kind.lr_scale < 1e-9


def test_figures_of_a_stream(backbone: Backbone, stream: Stream) -> None:
    found = measured(made("mos", "bottleneck bottleneck=1", backbone, **QUICK), stream, joint=False)
    depth, width = backbone.depth, backbone.width
    assert found["bytes"] == 4 * depth * (3 * width + 1)
    assert 1 <= found["passes"] <= 2
    assert found["average"] == sum(found["curve"]) / 2
    whole = measured(made("joint", "bottleneck", backbone, **QUICK), stream, joint=True)
    assert whole["passes"] == pytest.approx(1)
    line = summary([{"method": "joint", "row": "bottleneck", **whole}]).splitlines()[2]
    assert line.startswith("| joint | bottleneck | 1 | – | ")


def test_a_ladder_keeps_views_instead_of_what_a_backward_pass_needs(backbone: Backbone, stream: Stream) -> None:
    first = stream.experiences[0]
    held = {
        row: memory(made("mos", row, backbone, **QUICK), first.train_images, first.train_labels)
        for row in ("bottleneck", LADDER)
    }
    assert held["bottleneck"]["views"] == 0 < held[LADDER]["views"]
    assert held[LADDER]["kept"] < held["bottleneck"]["kept"] < held["bottleneck"]["peak"]


def test_costs_of_a_ladder(backbone: Backbone) -> None:
    images = torch.randn(6, 3, *backbone.frozen.image_size)
    args = {"bottleneck": {}, "ladder": {"reduction": 16}}
    found = answers(backbone, images, 2, 1, args)
    assert found["ladder"] > 0
    assert found["bottleneck"] > 0
    assert training(backbone, images, 1, 1, args)["kept for gradients"] < 1


def test_a_method_without_adapters_is_beside_them(backbone: Backbone, stream: Stream) -> None:
    found = measured(made("strata", NONE, backbone, seed=3, **QUICK), stream, joint=False)
    assert (found["bytes"], found["peak"]) == (0, 0)
    assert found["final"] > 50
