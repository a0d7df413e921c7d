"""The images a run is made of: training and test sets as (images, labels)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from continual.bench.config import DataConfig
from continual.data import Label, check_readable, list_folder
from continual.errors import InputError

Images = tuple[Sequence[Any] | Tensor, list[Label]]


def load_data(config: DataConfig) -> tuple[Images, Images]:
    """Return (training set, test set); raises InputError if the data are not there or not readable."""
    if config.source == "digits":
        return _digits()
    if config.source == "folder":
        return _folders(config)
    return _cifar(config)


def _digits() -> tuple[Images, Images]:
    """Scikit-learn's handwritten digits (1,797 images of 8 x 8); every fourth of a class is for testing."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = torch.from_numpy((digits.images * (255 / 16)).round().astype(np.uint8))[:, None]
    rank = np.zeros(len(digits.target), dtype=int)
    for digit in range(10):
        rank[digits.target == digit] = np.arange((digits.target == digit).sum())
    test = torch.from_numpy(rank % 4 == 3)
    labels = [str(digit) for digit in digits.target]

    def pick(mask: Tensor) -> Images:
        return images[mask], [label for label, keep in zip(labels, mask.tolist(), strict=True) if keep]

    return pick(~test), pick(test)


def _folders(config: DataConfig) -> tuple[Images, Images]:
    assert config.train is not None
    assert config.test is not None
    sets: list[Images] = []
    for folder in (config.train, config.test):
        paths, labels = list_folder(folder)
        check_readable(paths)
        sets.append((paths, list(labels)))
    (_, train), (_, test) = sets
    if extra := sorted(set(test) ^ set(train)):
        raise InputError(
            f"{config.train} and {config.test} hold different classes: {', '.join(map(str, extra[:5]))} "
            f"{'is' if len(extra) == 1 else 'are'} in one of them only"
        )
    return sets[0], sets[1]


def _cifar(config: DataConfig) -> tuple[Images, Images]:
    from torchvision.datasets import CIFAR10, CIFAR100

    kind = {"cifar10": CIFAR10, "cifar100": CIFAR100}[config.source]
    sets = []
    for train in (True, False):
        try:
            found = kind(str(config.root), train=train, download=True)
        except Exception as error:  # torchvision passes on whatever its downloader raises
            raise InputError(
                f"{config.source} is not in {config.root} and could not be downloaded ({type(error).__name__}: "
                f"{error}): connect to the network once, or put torchvision's files there"
            ) from error
        sets.append((list(found.data), [found.classes[target] for target in found.targets]))
    return sets[0], sets[1]
