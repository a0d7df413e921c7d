"""Values of simulated images, drawn from the sums of a regression: what its maps would say of images not learned."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from continual.statistics.ridge import GramStatistics, LinearHead
from continual.statistics.triangles import times

#: of a class's index, a number of draws, and a generator: values (count, C) under each map
Drawing = Callable[[int, int, torch.Generator], list[Tensor]]


def drawing(sums: GramStatistics, maps: Sequence[tuple[LinearHead, Tensor]]) -> Drawing:
    """Return a sampler of values of simulated images of a class, the same images under several maps.

    A map comes with the mean leverage h of the images in the sums; the first classes of each are those of the sums. The
    residual of an image not learned is that of a learned one over 1 - h (Allen, Technometrics 1974). Residuals of
    learned ones are taken for Gaussian: around that of the class's mean, with the covariance W^T S W of all maps W
    together, where S is the one of images within their classes.
    """
    weight, bias = torch.cat([one.weight for one, _ in maps], 1), torch.cat([one.bias for one, _ in maps])
    means = (sums.targets / sums.counts).mT @ weight  # (C, V), V values of all maps side by side
    within = weight.mT @ times(sums.triangle, weight) - (means * sums.counts[:, None]).mT @ means
    spread, directions = torch.linalg.eigh((within / sums.counts.sum()).cpu())
    root = directions * spread.clamp(min=0).sqrt()
    means, widths = (means + bias).cpu(), [len(one.bias) for one, _ in maps]
    kept = torch.cat([(1 - h).clamp(min=1e-6).expand(n).cpu() for (_, h), n in zip(maps, widths, strict=True)])

    def draw(index: int, count: int, generator: torch.Generator) -> list[Tensor]:
        own = torch.cat([torch.eye(n, dtype=root.dtype)[index] for n in widths])
        noise = torch.randn(count, len(own), generator=generator, device=generator.device).to(root)
        values = own + (means[index] - own + noise @ root.mT) / kept
        return list(values.split(widths, dim=1))

    return draw
