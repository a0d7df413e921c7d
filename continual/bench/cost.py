"""What a learner costs: the time of an answer, and how much it keeps."""

from __future__ import annotations

import time
from collections.abc import Sequence

from continual.bench.streams import Experience
from continual.learner import IncrementalLearner

#: enough images for a batch whose stacks differ, few enough to be asked after every experience
IMAGES = 32


def inference_seconds(learner: IncrementalLearner, experiences: Sequence[Experience]) -> float:
    """Return the seconds an image of answering test images of all experiences, with nothing remembered.

    Loading and preparing the images is part of it. The better of two tries at one batch: expect some noise.
    """
    share = max(1, IMAGES // len(experiences))
    images = [image for e in experiences for _, image in zip(range(share), e.test_images, strict=False)]
    tries = []
    for _ in range(2):
        started = time.perf_counter()
        learner.predict(images)
        tries.append((time.perf_counter() - started) / len(images))
    return min(tries)


def numbers_stored(learner: IncrementalLearner) -> int:
    """Return how many numbers a learner has stored; the frozen backbone is not counted."""
    return sum(tensor.numel() for tensor in learner.pack()[0].values())
