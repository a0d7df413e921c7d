"""The images a run is made of: training and test sets as (images, labels, domains, names)."""

from __future__ import annotations

import warnings

import numpy as np
import torch
from torch import Tensor

from continual.data.images import check_readable
from continual.datasets.catalogue import catalogue
from continual.datasets.collection import Collection, Images, count_problems
from continual.datasets.config import DataConfig
from continual.datasets.find import find
from continual.errors import InputError


def load_data(config: DataConfig) -> tuple[Images, Images]:
    """Return (training set, test set); raises InputError if the data are not there or not readable."""
    found = load_collection(config)
    return found.train, found.test


def load_collection(config: DataConfig) -> Collection:
    """Return the data set of a config, checked.

    A published data set must have the published counts (unless `exact` is off); its images are opened when they
    are needed. Those of a user's own are all opened once, before any work is done. Warns of images that a recorded
    split leaves out.
    """
    if config.source == "digits":
        return digits()
    found = find(config)
    for remark in found.remarks:
        warnings.warn(remark, stacklevel=2)
    about = catalogue().get(config.source)
    if about is None:
        check_readable([*found.train.images, *found.test.images])
        return found
    problems = count_problems(found, about.classes)
    if problems and (config.exact or len(found.classes) != about.classes):
        raise InputError(
            f"{found.origin} is not {about.title} as published: {'; '.join(problems)}. Complete it, or set "
            "data.exact=false and do not compare with published figures"
        )
    return found


def digits() -> Collection:
    """Scikit-learn's handwritten digits (1,797 images of 8 x 8); every fourth of a class is for testing."""
    from sklearn.datasets import load_digits

    data = load_digits()
    images = torch.from_numpy((data.images * (255 / 16)).round().astype(np.uint8))[:, None]
    rank = np.zeros(len(data.target), dtype=int)
    for digit in range(10):
        rank[data.target == digit] = np.arange((data.target == digit).sum())
    test = torch.from_numpy(rank % 4 == 3)
    labels = [str(digit) for digit in data.target]

    def pick(mask: Tensor) -> Images:
        return Images(images[mask], [label for label, keep in zip(labels, mask.tolist(), strict=True) if keep])

    return Collection("digits", pick(~test), pick(test), "scikit-learn", "every fourth of a class")
