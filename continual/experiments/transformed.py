"""How a learner answers test images that are turned: the same pictures, moved by random elements of a group."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from continual.data.inputs import ExperienceData, PreparedImages
from continual.data.preprocessing import Preprocessing
from continual.datasets.streams import Experience
from continual.learning.answers import Prediction
from continual.learning.learner import IncrementalLearner
from continual.seeding import generator
from continual.symmetry.views import group_named, transformed
from equivariant.groups import FiniteGroup

#: series of a cell, less the group's name: heading of its column
MEASURES = {"turned": "turned by {} [%]", "consistency": "same under {} [%]", "orbit_flips": "flips under {} [%]"}


@dataclass(frozen=True)
class Turned(Dataset[Any]):
    """A data set of (image (3, H, W), label), each image moved by its element of a group."""

    dataset: Any
    group: FiniteGroup
    elements: Tensor  #: (n,) int64

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Tensor, Any]:
        image, label = self.dataset[index]
        return transformed(self.group, int(self.elements[index]), image), label


def turned_training(data: ExperienceData, number: int, group: str, seed: int) -> ExperienceData:
    """Return an experience as if its training images had been taken in any position: moved by elements of a group."""
    known = group_named(group)
    draw = generator(seed, "turned for training", known.name, number)
    elements = torch.randint(known.order, (len(data.labels),), generator=draw)
    return ExperienceData(Turned(data.training, known, elements), Turned(data.evaluation, known, elements), data.labels)


def turned_images(experience: Experience, number: int, preprocessing: Preprocessing, group: str, seed: int) -> Turned:
    """Return an experience's test images, each moved by an element that is drawn from all but the identity."""
    known = group_named(group)
    others = torch.tensor([g for g in range(known.order) if g != known.identity])
    draw = generator(seed, "turned", known.name, number)
    elements = others[torch.randint(len(others), (len(experience.test_labels),), generator=draw)]
    images = PreparedImages(experience.test_images, experience.test_labels, preprocessing, augment=False)
    return Turned(images, known, elements)


def answer_turned(
    learner: IncrementalLearner[Any],
    group: str,
    seed: int,
    upright: Sequence[Prediction],
    experiences: Sequence[Experience],
    **asked: Any,
) -> dict[str, float]:
    """Ask a learner about its experiences' test images, turned; see `turned_images` and `turned_measures`."""
    prepared = learner.backbone.preprocessing
    images = [turned_images(e, number, prepared, group, seed) for number, e in enumerate(experiences)]
    return turned_measures(group, upright, [learner.predict(i, **asked) for i in images], experiences)


def turned_measures(
    group: str, upright: Sequence[Prediction], turned: Sequence[Prediction], experiences: Sequence[Experience]
) -> dict[str, float]:
    """Return shares of answers to test images as they are and moved by a random element that is not the identity.

    - `turned`: the accuracy if every element is as likely, the identity included.
    - `consistency`: images whose two answers agree.
    - `orbit_flips`: images answered right as they are and wrong when moved: the orbit flip rate.
    """
    truth = np.concatenate([np.array(e.test_labels, dtype=object) for e in experiences])
    as_they_are, as_moved = (
        np.concatenate([np.array(p.labels, dtype=object) for p in found]) for found in (upright, turned)
    )
    right, right_when_moved = as_they_are == truth, as_moved == truth
    order = group_named(group).order
    return {
        "turned": float((right.mean() + (order - 1) * right_when_moved.mean()) / order),
        "consistency": float((as_they_are == as_moved).mean()),
        "orbit_flips": float((right & ~right_when_moved).mean()),
    }
