"""Let one view answer nearly like the mean over its orbit: a linear map of what a frozen network says on its way.

Nothing of the network is trained, no labels are needed, and it is solved in closed form. What one view says after
several blocks tells more of the other views' features than its own features do.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from equivariant.actions import Action, Images
from equivariant.errors import InputError
from equivariant.groups import FiniteGroup, as_group
from equivariant.orbits import chunks, orbit
from equivariant.parts.surgery import device_of, evaluating

#: How strongly the map is held back, per number that is read; the best on held-out images is taken.
PENALTIES = (0.01, 0.03, 0.1, 0.3, 1.0)


class Readings(nn.Module):
    """Images (n, C, H, W) to a network's features and what some of its sub-modules say of them, (n, D + R).

    Of tokens (n, N, W) the first and the mean are read, of maps (n, W, h, w) the mean. The network is not copied.
    """

    def __init__(self, model: nn.Module, reads: Sequence[str]) -> None:
        super().__init__()
        self.model, self.reads, self.training = model, tuple(reads), model.training
        known = dict(model.named_modules())
        if unknown := [name for name in self.reads if name not in known]:
            children = ", ".join(name for name, _ in model.named_children())
            raise InputError(f"{type(model).__name__} has no sub-module {unknown[0]!r}: its children are {children}")

    def forward(self, x: Tensor) -> Tensor:
        """Return the features, and after them what was read, in the order of `reads`."""
        return torch.cat(self.parts(x), 1)

    def parts(self, x: Tensor) -> list[Tensor]:
        """Return the features (n, D), and what was read, each (n, …)."""
        heard: dict[str, Tensor] = {}
        handles = []
        for name in self.reads:
            hear = partial(_hear, heard, name)
            handles.append(self.model.get_submodule(name).register_forward_hook(hear))
        try:
            features = self.model(x)
        finally:
            for handle in handles:
                handle.remove()
        if not isinstance(features, Tensor) or features.ndim != 2:
            raise InputError("the network must give features (n, D): take its head off, take_off_head(model)")
        return [features, *(heard[name].to(features.dtype) for name in self.reads)]


def _hear(heard: dict[str, Tensor], name: str, module: nn.Module, args: tuple[object, ...], output: object) -> None:
    if not isinstance(output, Tensor) or output.ndim not in (2, 3, 4):
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise InputError(f"{name} gives {got}: vectors (n, W), tokens (n, N, W) or maps (n, W, h, w) can be read")
    if output.ndim == 3:
        output = torch.cat([output[:, 0], output.mean(1)], 1)
    heard[name] = output.mean((2, 3)) if output.ndim == 4 else output


def distil_orbit(
    model: nn.Module,
    group: FiniteGroup | str,
    images: Tensor | Iterable[Tensor],
    reads: Sequence[str] = (),
    *,
    input: Action | None = None,
    chunk: int | None = None,
) -> nn.Module:
    """Return a module like `model`, which gives features (n, D), whose features of one view come near the orbit's mean.

    `images` (n, …), or batches of them, need no labels and may be of other classes; `reads` are the names of the
    sub-modules that are read beside the features, such as `["blocks.4", "blocks.7"]` of a ViT. The map A minimises
    Σ_x Σ_g |A r(g·x) - mean_h M(h·x)|² + λ |A|² over standardised readings r, λ chosen by every fifth image; it is
    `[1]` of what is returned, and `[0]` the network and what reads it. Fit the head to what it gives (`fit_head`). It
    is not equivariant: put it into a wrapper. Raises InputError for fewer than five images.
    """
    group, input = as_group(group), input or Images()
    readings = Readings(model, reads)
    sums: list[Sums] = []
    count = 0
    with evaluating(readings):
        for batch in [images] if isinstance(images, Tensor) else images:
            batch = batch.to(device_of(model))
            input.check(group, batch)
            rows, goals = _seen(readings, group, batch, input, chunk)
            last = (torch.arange(count, count + len(batch), device=rows.device) % 5) == 4
            parts = [Sums.of(rows[:, own], goals[own]) for own in (~last, last)]
            sums = [one + other for one, other in zip(sums, parts, strict=True)] if sums else parts
            count += len(batch)
    if count < 5:
        raise InputError(f"the map is fitted to views of images, at least 5 and better hundreds, not {count}")
    weight, bias = chosen_map(*sums)
    linear = nn.Linear(weight.shape[1], weight.shape[0], device=weight.device).requires_grad_(False)
    linear.weight.copy_(weight)
    linear.bias.copy_(bias)
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    return nn.Sequential(readings, linear.to(dtype)).train(model.training)


def chosen_map(fitted: Sums, held_out: Sums) -> tuple[Tensor, Tensor]:
    """Return the map (weight, bias) of both sums, with the strength that serves the held-out ones best."""
    best = min(PENALTIES, key=lambda penalty: held_out.error(*fitted.solved(penalty)))
    return (fitted + held_out).solved(best)


def _seen(
    readings: Readings, group: FiniteGroup, x: Tensor, action: Action, chunk: int | None
) -> tuple[Tensor, Tensor]:
    """Return the readings of all views (|G|, B, D + R) and the mean of the features over them (B, D), in float64."""
    rows, features = [], []
    for elements in chunks(group.order, chunk):
        own, *read = readings.parts(orbit(group, x, action, elements).flatten(0, 1))
        rows.append(torch.cat([own, *read], 1).double().unflatten(0, (len(elements), -1)))
        features.append(own.double().unflatten(0, (len(elements), -1)))
    return torch.cat(rows), torch.cat(features).mean(0)


@dataclass(frozen=True)
class Sums:
    """What a regression of goals y (n, D) on rows r (n, R) takes: sums of products, with a one beside the rows."""

    products: Tensor  #: Σ [r, 1]ᵀ[r, 1], (R + 1, R + 1)
    crossed: Tensor  #: Σ [r, 1]ᵀ y, (R + 1, D)
    squares: Tensor  #: Σ |y|²

    @classmethod
    def of(cls, rows: Tensor, goals: Tensor) -> Sums:
        """Return the sums of rows (|G|, n, R), whose goals are those of their image, (n, D)."""
        flat = torch.cat([rows, torch.ones_like(rows[..., :1])], 2)
        summed = flat.sum(0)
        flat = flat.flatten(0, 1)
        return cls(flat.T @ flat, summed.T @ goals, len(rows) * goals.square().sum())

    def __add__(self, other: Sums) -> Sums:
        return Sums(self.products + other.products, self.crossed + other.crossed, self.squares + other.squares)

    def solved(self, penalty: float) -> tuple[Tensor, Tensor]:
        """Return weight (D, R) and bias (D,) of the ridge regression on standardised rows, penalty · R its strength."""
        count = self.products[-1, -1]
        mean, goal = self.products[-1, :-1] / count, self.crossed[-1] / count
        covered = self.products[:-1, :-1] - count * mean.outer(mean)
        scale = (covered.diagonal() / count).clamp(min=0).sqrt()
        scale = torch.where(scale > 1e-9 * scale.max(), scale, torch.inf)  # what never changes is not read
        normal = covered / scale.outer(scale)
        normal.diagonal().add_(penalty * len(scale))
        crossed = (self.crossed[:-1] - count * mean.outer(goal)) / scale[:, None]
        weight = (torch.cholesky_solve(crossed, torch.linalg.cholesky(normal)) / scale[:, None]).T
        return weight, goal - weight @ mean

    def error(self, weight: Tensor, bias: Tensor) -> float:
        """Return the sum of squared errors of a map."""
        own = torch.cat([weight, bias[:, None]], 1).T
        return float(self.squares - 2 * (own * self.crossed).sum() + ((self.products @ own) * own).sum())
