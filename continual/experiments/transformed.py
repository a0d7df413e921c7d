"""Images transformed by random elements of a group, to train on and to answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from continual.data.inputs import ExperienceData, PreparedImages
from continual.data.preprocessing import Preprocessing
from continual.datasets.streams import Experience
from continual.learning.answers import Prediction
from continual.learning.learner import IncrementalLearner
from continual.seeding import generator
from continual.symmetry.views import Transformed, group_named


def transformed_training(data: ExperienceData, number: int, group: str, seed: int) -> ExperienceData:
    """Return an experience with its training images transformed by elements of a group, as if taken in any position."""
    known = group_named(group)
    draw = generator(seed, "turned for training", known.name, number)
    elements = torch.randint(known.order, (len(data.labels),), generator=draw)
    training, evaluation = (Transformed(part, known, elements) for part in (data.training, data.evaluation))
    return ExperienceData(training, evaluation, data.labels, data.value_range)


def transformed_images(
    experience: Experience,
    number: int,
    preprocessing: Preprocessing,
    group: str,
    seed: int,
    value_range: str | None = None,
) -> Transformed:
    """Return an experience's test images, each transformed by an element that is drawn from all but the identity."""
    known = group_named(group)
    others = torch.tensor([g for g in range(known.order) if g != known.identity])
    draw = generator(seed, "turned", known.name, number)
    elements = others[torch.randint(len(others), (len(experience.test_labels),), generator=draw)]
    given = experience.test_images, experience.test_labels, preprocessing
    images = PreparedImages(*given, augment=False, value_range=value_range)
    return Transformed(images, known, elements)


def answer_transformed(
    learner: IncrementalLearner[Any], group: str, seed: int, experiences: Sequence[Experience], **asked: Any
) -> list[Prediction]:
    """Return a learner's answers to its experiences' test images, transformed; see `transformed_images`."""
    how = learner.preprocessing, group, seed, learner.state.value_range
    images = [transformed_images(e, number, *how) for number, e in enumerate(experiences)]
    return [learner.predict(i, **asked) for i in images]
