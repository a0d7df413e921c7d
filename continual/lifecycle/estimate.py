"""How long an experience will take, from steps of it that are measured and thrown away."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import torch

from continual.data.inputs import ExperienceData
from continual.learning.learner import IncrementalLearner
from continual.learning.training import GradientTraining
from continual.methods.bases.alignment import AlignedState, align
from continual.seeding import seeded
from continual.statistics.head import Head
from continual.symmetry.choice import NO_UP
from continual.symmetry.group_evidence import MOST_IMAGES
from continual.symmetry.views import group_named

T = TypeVar("T")

#: times the smallest of which counts: the first one warms up
ROUNDS = 2
#: seconds in which a first round warms up; a longer one counts, and is the only one
WARM = 1.0


def seconds(learner: IncrementalLearner[Any], data: ExperienceData, answers: int) -> float:
    """Estimate what it takes to learn `data` and to predict for `answers` images, loading in this process.

    Loads some images, and runs a training step, a forward pass and an epoch of alignment. The learner stays as it was.
    """
    if learner.undecided:  # the most that it may take
        learner = learner.variant(group=NO_UP)
        answers += group_named(NO_UP).order * min(len(data.labels), MOST_IMAGES)
    training, settings = learner.begin(data), learner.settings
    few = range(min(len(data.labels), getattr(settings, "batch_size", 16)))
    with seeded(0, "estimate"):
        loading, items = _timed(lambda: [data.training[i] for i in few], rounds=1)
    images = torch.stack([item[0] for item in items]).to(learner.device)
    labels = [data.labels[i] for i in few]
    loading /= len(few)
    with torch.no_grad():
        forward = _timed(lambda: training.extractor.features(images))[0] / len(few)
    total = 2 * len(training.data.labels) * (loading + forward)
    if isinstance(training, GradientTraining) and training.epochs:
        training.start_epoch(0)

        def step() -> float:
            loss = training.loss(training.forward(images), labels)
            loss.backward()
            return float(loss.detach())

        total += training.epochs * len(data.labels) * (loading + _timed(step)[0] / len(few))
    if learner.classes:
        forward = _timed(lambda: learner.score_batch(images))[0] / len(few)
        total += _alignment(learner)
    return total + answers * (loading + forward)


def words(duration: float) -> str:
    """Say how long that is, as well as it is known.

    >>> words(3), words(47), words(200), words(8000)
    ('under 10 s', 'about 50 s', 'about 3 min', 'about 2.2 h')
    """
    if duration < 10:
        return "under 10 s"
    if duration < 95:
        return f"about {round(duration, -1):.0f} s"
    return f"about {duration / 60:.0f} min" if duration < 5400 else f"about {duration / 3600:.1f} h"


def _alignment(learner: IncrementalLearner[Any]) -> float:
    """Return the time of aligning the head with the classes so far: what grows with them."""
    state, settings = learner.state, learner.settings
    epochs = getattr(settings, "alignment_epochs", 0)
    if not (isinstance(state, AlignedState) and state.head is not None and epochs):
        return 0.0

    def run(epochs: int) -> Head:
        draw = torch.Generator(device=learner.device).manual_seed(0)
        assert state.head is not None
        own = settings.model_copy(update={"alignment_epochs": epochs})
        return align(state.head, state.statistics, own, generator=draw)

    start, one = (_timed(partial(run, n), rounds=1)[0] for n in (0, 1))
    return start + epochs * max(one - start, 0.0)


def _timed(work: Callable[[], T], rounds: int = ROUNDS) -> tuple[float, T]:
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        found = work()
        times.append(time.perf_counter() - started)
        if times[-1] > WARM:
            break
    return min(times), found
