"""What a learner costs: the time of an answer, and how much it keeps."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from torch import Tensor

from continual.datasets.streams import Experience
from continual.learning.learner import IncrementalLearner

#: enough images for a batch whose stacks differ, few enough to be asked after every experience
IMAGES = 32


def inference_cost(learner: IncrementalLearner[Any], experiences: Sequence[Experience]) -> tuple[float, float | None]:
    """Return what it takes to answer one of the test images of all experiences, with nothing remembered.

    That is seconds, loading and preparing the image included: the better of two tries at one batch, so expect some
    noise. And forward passes of the whole backbone, from the images that its blocks or stages are given; None for
    learners that do not run it.
    """
    share = max(1, IMAGES // len(experiences))
    images = [image for e in experiences for _, image in zip(range(share), e.test_images, strict=False)]
    stages, rows, tries = learner.backbone.trunk.stages, 0, []

    def count(_: Any, given: tuple[Tensor, ...]) -> None:
        nonlocal rows
        rows += len(given[0])

    hooks = [module.register_forward_pre_hook(count) for module in stages]
    try:
        for _ in range(2):
            started = time.perf_counter()
            learner.predict(images)
            tries.append((time.perf_counter() - started) / len(images))
    finally:
        for hook in hooks:
            hook.remove()
    return min(tries), rows / (len(tries) * len(stages) * len(images)) or None


def numbers_stored(learner: IncrementalLearner[Any]) -> int:
    """Return how many numbers a learner has stored; the frozen backbone is not counted."""
    return sum(tensor.numel() for tensor in learner.export()[0].values())
