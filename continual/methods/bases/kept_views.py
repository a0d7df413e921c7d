"""Views of training images, kept as what a frozen ViT makes of them: epochs then run what is trained alone.

Only where all that is trained reads the ViT without changing it: a ladder.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from continual.backbones.side_network import packed
from continual.data.loaders import SeededItems
from continual.errors import InputError
from continual.learning.extractor import Extractor, Progress


@dataclass(frozen=True)
class KeptViews(Dataset[Any]):
    """Items as those of a data set of images, each image's place taken by one of its views, drawn at random.

    A view is (R, D) in half precision, see `continual.backbones.side_network.packed`. The draw is the loader's, of
    seed, epoch and image.
    """

    views: Sequence[Tensor]  #: of each of several views (n, R, D), one row an image
    rest: Sequence[Sequence[Any]]  #: what items hold beside their image

    def __len__(self) -> int:
        return len(self.rest)

    def __getitem__(self, index: int) -> Any:
        view = 0 if len(self.views) == 1 else int(torch.randint(len(self.views), ()))
        return self.views[view][index], *self.rest[index]


def keep_views(
    dataset: Any,
    count: int,
    extractor: Extractor,
    reads: int,
    *,
    seed: int,
    experience: int,
    batch_size: int,
    progress: Progress | None = None,
    workers: int = 0,
) -> KeptViews:
    """Run the ViT over `count` views of every image: those that its first epochs would see.

    Raises InputError if they would take more than half of the machine's memory.
    """
    items, total = SeededItems(dataset, seed, experience), count * len(dataset)
    views: list[Tensor] = []
    rest: list[Any] = []
    for view in range(count):
        keys = [(view, index) for index in range(len(dataset))]
        loader = DataLoader(
            items, batch_size, sampler=keys, num_workers=workers, collate_fn=_apart, generator=torch.Generator()
        )
        whole, place = torch.empty(0), 0
        for images, others in loader:
            with torch.no_grad():
                rows = packed(extractor.stem(images.to(extractor.device), reads=reads)).cpu()
            if place == 0:
                _check_memory(total * rows[0].numel() * rows.element_size(), count)
                whole = rows.new_empty(len(dataset), *rows.shape[1:])
            whole[place : place + len(rows)] = rows
            place += len(rows)
            rest += others if view == 0 else []
            if progress is not None:
                progress("keeping views", view * len(dataset) + place, total, {})
        views.append(whole)
    return KeptViews(views, rest)


def _apart(items: Sequence[Sequence[Any]]) -> tuple[Tensor, list[Any]]:
    return torch.stack([item[0] for item in items]), [tuple(item[1:]) for item in items]


def _check_memory(needed: int, count: int) -> None:
    there = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else needed * 2
    if needed > there / 2:
        raise InputError(
            f"cached_views={count} would keep {needed / 1e9:.1f} GB in memory, more than half of what there is: lower "
            "it in adapter_args; with 0 every epoch runs the ViT on fresh views and keeps none"
        )
