"""Scikit-learn's handwritten digits: images for a first look, which come with the library."""

from __future__ import annotations

import numpy as np
import torch

from continual.datasets.collection import Collection, Images
from continual.datasets.readers.base import DataTable, Reader


class Digits(Reader):
    """1,797 images of 8 x 8, as tensors (N, 1, 8, 8); every fourth of a class is for testing."""

    name = "digits"

    def read(self, config: DataTable, *, download: bool = False) -> Collection:
        from sklearn.datasets import load_digits

        data = load_digits()
        images = torch.from_numpy((data.images * (255 / 16)).round().astype(np.uint8))[:, None]
        rank = np.zeros(len(data.target), dtype=int)
        for digit in range(10):
            rank[data.target == digit] = np.arange((data.target == digit).sum())
        test = torch.from_numpy(rank % 4 == 3)
        labels = [str(digit) for digit in data.target]

        parts = [Images(images[mask], [labels[i] for i in mask.nonzero()[:, 0].tolist()]) for mask in (~test, test)]
        return Collection("digits", parts[0], parts[1], "scikit-learn", "every fourth of a class")

    def check(self, found: Collection, config: DataTable) -> None:
        """Accept them: they are tensors already."""
