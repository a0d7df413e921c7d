"""Large pictures in windows whose places and weights have the symmetry of the square, so that nothing is lost of it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any, Literal

import torch
from torch import Tensor, nn

from equivariant.actions import Action, Maps, Trivial
from equivariant.errors import InputError
from equivariant.outputs import Representation, leaves, rebuild, skeleton

PADDINGS = ("replicate", "zeros")


class Tiled(nn.Module):
    """A model run over pictures of any size in square windows, whose answers are blended.

    `Tiled(Equitune(model, "D4", output=Maps()), tile=512)` is exactly equivariant on pictures of any shape, squares or
    not, odd or even: windows lie as far from one edge as from the other, and weigh alike on both sides. Only one batch
    of windows goes through the model at a time. What is held besides is the answer, summed in float32 or wider.

    - `model`: an equivariant wrapper, or any model of windows (n, C, tile, tile). Maps (n, …, tile, tile) come back as
      maps of the picture (B, …, H, W), scores (n, K) as their mean over all windows (B, K), weighted alike.
    - `overlap`: pixels that neighbouring windows share at least. Windows count less towards their edges, linearly.
    - `output`: how the answer moves, as for wrappers: `Maps()` or `Trivial()`, or a dict or tuple of such; by default
      shapes decide.
    - `prepare`: what makes a batch of windows ready for the model, such as `lambda x: x / 255`: large pictures may stay
      uint8, also in a file (`torch.from_numpy(numpy.memmap(…))`). It must treat every pixel alike.
    - `batch`: windows that go through the model at once.
    - `padding`: what lies outside a picture smaller than a window: its edge again ("replicate"), or zeros.

    Raises InputError for bad options, a batch that is not (B, C, H, W), and an answer of a window that is no map of its
    size, or other than scores.
    """

    def __init__(
        self,
        model: nn.Module,
        tile: int,
        *,
        overlap: int | None = None,
        output: Representation | None = None,
        prepare: Callable[[Tensor], Tensor] | None = None,
        batch: int = 1,
        padding: Literal["replicate", "zeros"] = "replicate",
    ) -> None:
        super().__init__()
        overlap = tile // 4 if overlap is None else overlap
        if tile < 1 or not 0 <= overlap < tile:
            raise InputError(f"tile={tile} must be at least 1, and overlap={overlap} 0 or more, and smaller than that")
        if batch < 1:
            raise InputError(f"batch={batch} must be a number of windows, at least 1")
        if padding not in PADDINGS:
            raise InputError(f"padding={padding!r} is unknown: choose one of {', '.join(PADDINGS)}")
        self.model, self.tile, self.overlap, self.output = model, tile, overlap, output
        self.prepare, self.batch, self.padding = prepare, batch, padding
        #: how much each row of a window counts, (tile,): less where it is shared, so that nothing jumps at an edge
        rising = torch.arange(1, tile + 1, dtype=torch.float64)
        self.ramp = torch.minimum(rising, rising.flip(0)).clamp(max=overlap + 1) / (overlap + 1)
        self.training = model.training

    def forward(self, x: Tensor) -> Any:
        """Return the answer for pictures (B, C, H, W), shaped like the model's."""
        if x.ndim != 4 or 0 in x.shape:
            raise InputError(f"pictures are (B, C, H, W), but this tensor has shape {tuple(x.shape)}")
        rows, columns = (starts(side, self.tile, self.overlap) for side in x.shape[-2:])
        places = list(product(range(x.shape[0]), rows, columns))
        totals: list[Tensor] = []
        for first in range(0, len(places), self.batch):
            part = places[first : first + self.batch]
            windows = torch.stack([self._window(x[b], top, left) for b, top, left in part])
            windows = windows if self.prepare is None else self.prepare(windows)
            answer = self.model(windows)
            found = leaves(self.output, answer, windows)
            totals = totals or [self._nothing(action, tensor, x) for action, tensor in found]
            for (action, tensor), total in zip(found, totals, strict=True):
                self._add(action, tensor, total, part)
        for (action, _), total in zip(found, totals, strict=True):
            if isinstance(action, Maps):
                total /= self._weight(rows, x.shape[-2]).to(total)[:, None]
                total /= self._weight(columns, x.shape[-1]).to(total)
            else:
                total /= len(rows) * len(columns)
        means = [total.to(tensor.dtype) for (_, tensor), total in zip(found, totals, strict=True)]
        return rebuild(skeleton(answer), iter(means))

    def _window(self, picture: Tensor, top: int, left: int) -> Tensor:
        """Return the window (C, tile, tile) at a place, which may reach beyond the picture (C, H, W)."""
        for axis, start in ((-2, top), (-1, left)):
            side = picture.shape[axis]
            if 0 <= start <= side - self.tile:
                picture = picture.narrow(axis, start, self.tile)
                continue
            places = torch.arange(start, start + self.tile, device=picture.device)
            picture = picture.index_select(axis, places.clamp(0, side - 1))
            if self.padding == "zeros":
                outside = (places < 0) | (places >= side)
                picture = picture.masked_fill(outside[:, None] if axis == -2 else outside, 0)
        return picture

    def _nothing(self, action: Action, tensor: Tensor, x: Tensor) -> Tensor:
        if isinstance(action, Maps):
            if tensor.shape[-2:] != (self.tile, self.tile):
                raise InputError(
                    f"the model's map is {tuple(tensor.shape)} for windows of {self.tile} pixels: interpolate it to "
                    f"their size before, so that maps can be put together"
                )
            shape = (x.shape[0], *tensor.shape[1:-2], *x.shape[-2:])
        elif isinstance(action, Trivial):
            shape = (x.shape[0], *tensor.shape[1:])
        else:
            raise InputError(f"windows are put together as Maps() or Trivial(), and {action} is neither")
        if not tensor.is_floating_point():
            raise InputError(f"answers of {tensor.dtype} cannot be averaged: return scores, not labels")
        return tensor.new_zeros(shape, dtype=torch.promote_types(tensor.dtype, torch.float32))

    def _add(self, action: Action, answers: Tensor, total: Tensor, part: list[tuple[int, int, int]]) -> None:
        """Add the answers (n, …) of windows to those of their pictures, in place."""
        window = self.ramp[:, None] * self.ramp
        for (b, top, left), own in zip(part, answers, strict=True):
            if not isinstance(action, Maps):
                total[b].add_(own)
                continue
            (row, rows), (column, columns) = (
                (max(start, 0), slice(max(-start, 0), min(self.tile, side - start)))
                for start, side in zip((top, left), total.shape[-2:], strict=True)
            )
            own = own[..., rows, columns] * window[rows, columns].to(total)
            total[b, ..., row : row + own.shape[-2], column : column + own.shape[-1]].add_(own)

    def _weight(self, places: list[int], side: int) -> Tensor:
        """Return the sum of the weights of all windows at each of the `side` rows of a picture."""
        total = torch.zeros(side, dtype=torch.float64)
        for start in places:
            inside = slice(max(-start, 0), min(self.tile, side - start))
            total[max(start, 0) : max(start, 0) + inside.stop - inside.start] += self.ramp[inside]
        return total


def starts(side: int, tile: int, overlap: int) -> list[int]:
    """Return where windows begin: as far from one end as they end from the other, and sharing at least `overlap`.

    There are two where one could not lie in the middle. Those of a picture smaller than a window begin outside of it.

    >>> starts(10, 4, 1), starts(9, 4, 0), starts(3, 4, 1)
    ([0, 3, 6], [0, 2, 3, 5], [-1, 0])
    """
    room, step = side - tile, tile - overlap
    if room <= 0:
        return sorted({room // 2, room - room // 2})
    count = 1 - -room // step
    if room % 2:  # none can lie in the middle
        count += count % 2
    half = [-(-room * i // (count - 1)) for i in range(count // 2)]
    middle = [room // 2] if count % 2 else []
    return sorted({*half, *middle, *(room - start for start in half)})
