"""What merge rules make of adapters that were learned apart, and of MOS's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from merge_rules import alike, answered, learned, measured, rows

from continual.backbones.loading import Backbone
from continual.datasets.streams import Experience, Stream
from continual.merging import RULES
from continual.methods.bases.adapter_training import beginning

QUICK: dict[str, Any] = {"epochs": 2, "batch_size": 4, "lr": 0.1, "bottleneck": 4, "alignment_epochs": 2}


def test_every_rule_on_every_bank(backbone: Backbone, blobs: Callable[..., tuple[torch.Tensor, list[int]]]) -> None:
    def experience(*classes: int) -> Experience:
        images, labels = blobs(classes, per_class=4)
        return Experience(list(images), labels, list(images), labels, classes)

    stream = Stream("blobs", (experience(0, 1), experience(2, 3)), (0, 1, 2, 3))
    learner, apart = learned(backbone, stream, None, **QUICK)
    start = beginning(learner.settings, backbone)
    names = list(start)
    found = dict(rows(apart, start, names))
    assert list(found) == ["no adapter", "first", "last", *RULES.all()]
    site, other = (learned(backbone, Stream("", stream.experiences[k:], ()), None, **QUICK)[1][0] for k in (0, 1))
    for name in names:
        torch.testing.assert_close(found["mean"][name], (site[name] + other[name]) / 2)  # type: ignore[index]
    accuracies = measured(learner, found["mean"], stream)
    assert accuracies["ridge"] == 100
    assert 25 < accuracies["prototypes"] <= 100

    merging, bank = learned(backbone, stream, 0.5, **QUICK)
    assert alike(bank, start) > alike(apart, start)
    assert alike([bank[0], bank[0]], start) > 0.9999
    assert 25 < answered(merging, "mean", stream) <= 100
    assert 25 < answered(merging, "retrieval", stream) <= 100
