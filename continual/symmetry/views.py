"""An image's views: the groups that make them, and an order that only their content decides."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from continual.errors import InputError
from continual.seeding import generator
from equivariant.actions import Images, motion_of
from equivariant.errors import EquivariantError
from equivariant.groups import FiniteGroup, as_group
from equivariant.orbits import orbit


def content_order(views: Tensor) -> Tensor:
    """Return places (B, m) of views (B, m, C, H, W), the one that is brightest at the top, then at the left, first.

    Whole numbers decide, which are the same in whatever order they are added; where they tie, a sum that takes every
    pixel into account. Views that tie then as well are the same picture.
    """
    return descending(*content_keys(views).unbind(-1))


def content_keys(images: Tensor) -> Tensor:
    """Return the numbers (..., 2) by which `content_order` puts images (..., C, H, W) in order: the largest first."""
    exact = images.double() if images.dtype == torch.float64 else images.float()
    levels = (exact * 2**12).round()
    if _fits(levels):
        # One product of matrices gives the same numbers in less time.
        tilt, high, low = (levels.double().flatten(-3) @ _weights(*images.shape[-3:])).long().unbind(-1)
        return torch.stack([tilt, -(2**12 * high + low)], -1)
    levels = levels.long()
    tilt, noise = (weights.to(images.device) for weights in (_ramp(*images.shape[-2:]), _noise(*images.shape[-3:])))
    return torch.stack([(levels.sum(-3) * tilt).sum((-2, -1)), -(levels * noise).sum((-3, -2, -1))], -1)


@lru_cache(maxsize=8)
def _weights(*shape: int) -> Tensor:
    """Return what the numbers (C * H * W,) of an image are multiplied by: for the tilt, and for halves of the noise."""
    noise = _noise(*shape)
    halves = [_ramp(*shape[-2:]).expand(shape), noise >> 12, noise & 2**12 - 1]
    return torch.stack(halves, -1).flatten(0, -2).double()


def _ramp(height: int, width: int) -> Tensor:
    down, right = (torch.arange(side - 1, -side, -2) for side in (height, width))
    return 2 * down[:, None] + right


def _fits(levels: Tensor) -> bool:
    """Return whether sums of whole numbers (..., C, H, W), each times one below 2^14, are exact in float64."""
    if levels.device.type != "cpu" or torch.compiler.is_compiling() or torch.compiler.is_exporting():
        return False  # a graph knows no values
    count = levels[..., 0, 0, 0].numel()
    return count > 0 and float(levels.abs().max()) * (levels.numel() // count) < 2**39


@lru_cache(maxsize=8)
def _noise(*shape: int) -> Tensor:
    return torch.randint(2**24, shape, generator=generator(0, "order of views"))


def descending(*keys: Tensor) -> Tensor:
    """Return the places (B, m) of the largest of the first key (B, m), the second largest, …; stable.

    Where a key ties, the next decides, and at last the place. Each is compared with each (m is a group's order), as
    exporters know no sorting by several keys.

    >>> descending(torch.tensor([[1, 3, 3, 2]]), torch.tensor([[0, 1, 2, 0]]))
    tensor([[2, 1, 3, 0]])
    """
    places = torch.arange(keys[0].shape[1], device=keys[0].device)
    before = places[:, None] < places
    for key in reversed(keys):
        one, other = key[:, :, None], key[:, None]
        before = (one > other) | ((one == other) & before)
    return (before.sum(1)[:, None] == places[:, None]).int().argmax(2)


def taken(views: Tensor, places: Tensor) -> Tensor:
    """Return the views (B, k, …) of (B, m, …) that lie at an image's `places` (B, k)."""
    return views[torch.arange(views.shape[0], device=views.device)[:, None], places]


def best_first(views: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Return the views (B·k, …) of (B, m, …) that have a weight (B, m) above 0, and those weights (B, k).

    An image's views lie one after the other, the one of most weight first; k is what the image of most such views has.
    In a graph that is exported, whose steps cannot depend on images, it is m.
    """
    most = weights.shape[1] if torch.compiler.is_exporting() else int((weights > 0).sum(1).max())
    first = descending(weights)[:, :most]
    return taken(views, first).flatten(0, 1), weights.gather(1, first)


def transformed(group: FiniteGroup, element: int, image: Tensor) -> Tensor:
    """Return an image (3, H, W) transformed by an element; raises InputError if the group cannot act on it."""
    with refusals():
        return Images()(group, element, image[None])[0]


@dataclass(frozen=True)
class Transformed(Dataset[Any]):
    """A data set of (image (3, H, W), label, ...), each image transformed by its element of a group."""

    dataset: Any
    group: FiniteGroup
    elements: Sequence[int] | Tensor | None = None  #: one per image; None: torch's generator draws, every time

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, index: int) -> tuple[Any, ...]:
        image, *rest = self.dataset[index]
        element = torch.randint(self.group.order, ()) if self.elements is None else self.elements[index]
        return transformed(self.group, int(element), image), *rest


@cache
def group_named(name: str) -> FiniteGroup:
    """Return the group of that name; raises InputError for one that is unknown or does not act on pictures."""
    with refusals():
        group = as_group(name)
        orbit(group, torch.zeros(1, _permuted(group) or 3, 2, 2))
    return group


def check_channels(name: str, channels: int) -> None:
    """Raise InputError if the group of that name permutes channels, and another number of them."""
    permuted = _permuted(group_named(name))
    if permuted not in (0, channels):
        raise InputError(f"group={name!r} permutes {permuted} channels, and the backbone takes {channels}")


def _permuted(group: FiniteGroup) -> int:
    """Return how many channels a group permutes, 0 if it leaves them where they are."""
    return max(len(motion_of(group, g).channels) for g in range(group.order))


@contextmanager
def refusals() -> Iterator[None]:
    """Say what `equivariant` refuses as this package's own error."""
    try:
        yield
    except EquivariantError as error:
        raise InputError(str(error)) from error
