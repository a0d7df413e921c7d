"""Loaders whose randomness belongs to each image, and class indices of labels."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from continual import distributed
from continual.data.containers import Label
from continual.errors import InputError
from continual.seeding import generator, seeded


class EpochSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index) pairs, shuffled by seed and epoch alone."""

    def __init__(self, length: int, seed: int, experience: int) -> None:
        self.length, self.seed, self.experience, self.epoch = length, seed, experience, 0

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        with seeded(self.seed, "shuffle", self.experience, self.epoch):
            order = torch.randperm(self.length).tolist()
        return iter([(self.epoch, index) for index in order])


@dataclass(frozen=True)
class _OwnRows(Sampler[list[tuple[int, int]]]):
    """Of every batch, what belongs to this process."""

    sampler: EpochSampler
    batch_size: int

    def __len__(self) -> int:
        return -(-len(self.sampler) // self.batch_size)

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        keys = iter(self.sampler)
        while batch := [*islice(keys, self.batch_size)]:
            rows = distributed.rows_of(len(batch))
            yield batch if rows is None else batch[rows.slice]


@dataclass(frozen=True)
class SeededItems(Dataset[Any]):
    """Draws each image's augmentation from (seed, epoch, index), in whatever process it is loaded."""

    dataset: Any
    seed: int
    experience: int

    def __getitem__(self, key: tuple[int, int]) -> Any:
        epoch, index = key
        with seeded(self.seed, "augment", self.experience, epoch, index):
            return self.dataset[index]


def collate(items: Sequence[Sequence[Any]]) -> tuple[Tensor, list[Label]]:
    """Stack images; labels stay a list of str or int."""
    labels = [int(item[1]) if isinstance(item[1], Tensor | np.integer) else item[1] for item in items]
    return torch.stack([item[0] for item in items]), labels


def training_loader(
    dataset: Any, batch_size: int, seed: int, experience: int, *, own_rows: bool = False, **loader: Any
) -> tuple[DataLoader[Any], EpochSampler]:
    """Return a loader and its sampler; set `sampler.epoch` before each pass.

    With `own_rows` each of several processes loads its rows of every batch, see `continual.distributed`.
    """
    sampler = EpochSampler(len(dataset), seed, experience)
    items = SeededItems(dataset, seed, experience)
    # A generator of its own: without one a loader draws its workers' seed from the global state.
    loader = {"collate_fn": collate, "generator": generator(seed, "loader", experience), **loader}
    loader["persistent_workers"] = loader.get("num_workers", 0) > 0  # they keep what they have decoded
    if own_rows and distributed.count() > 1:
        return DataLoader(items, batch_sampler=_OwnRows(sampler, batch_size), **loader), sampler
    return DataLoader(items, batch_size=batch_size, sampler=sampler, **loader), sampler


def evaluation_loader(dataset: Any, batch_size: int, **loader: Any) -> DataLoader[Any]:
    """Return a loader that keeps the order of the data set; of several processes each loads its batches in turn."""
    loader = {"collate_fn": collate, "generator": torch.Generator(), **loader}
    order = range(len(dataset))
    batches = [list(order[start : start + batch_size]) for start in order[::batch_size]]
    return DataLoader(dataset, batch_sampler=distributed.turns(batches), **loader)


def label_indices(labels: Sequence[Label], classes: Mapping[Label, int]) -> Tensor:
    """Return the index (B,) int64 of each label; raise InputError for one that was never learned."""
    if strange := [label for label in labels if not (isinstance(label, Hashable) and label in classes)]:
        known = ", ".join(map(str, list(classes)[:8])) or "none yet"
        raise InputError(f"class {strange[0]!r} was never learned; known: {known}{', …' if len(classes) > 8 else ''}")
    return torch.tensor([classes[label] for label in labels], dtype=torch.int64)
