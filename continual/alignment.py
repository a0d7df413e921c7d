"""Classifier alignment (MOS section 3.2): retrain the head on features drawn from the class statistics."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from continual.class_statistics import ClassStatistics
from continual.state import State, without_item, without_row
from continual.unknowns import Calibration, KnownClasses, calibrate, known_classes


@dataclass(frozen=True)
class AlignedState(State):
    """One head, and the class statistics it is aligned on."""

    head: tuple[Tensor, Tensor] | None = None  #: weight (C, D), bias (C,)
    statistics: tuple[ClassStatistics, ...] = ()
    calibration: Calibration | None = None  #: what is usual of known images

    @cached_property
    def known(self) -> KnownClasses | None:
        """What tells known images from others."""
        return known_classes(self.statistics, self.calibration)

    def own_without(self, index: int) -> dict[str, Any]:
        """Leave out head row and statistics."""
        kept = without_item(self.statistics, index)
        usual = None if self.calibration is None else calibrate(kept, torch.Generator().manual_seed(index))
        return {"head": head_without(self.head, index), "statistics": kept, "calibration": usual}


def head_without(head: tuple[Tensor, Tensor] | None, index: int) -> tuple[Tensor, Tensor] | None:
    """Return a head (weight (C, D), bias (C,)) without the row of one class."""
    return None if head is None else (without_row(head[0], index), without_row(head[1], index))


def align(
    weight: Tensor,
    bias: Tensor,
    statistics: Sequence[ClassStatistics],
    *,
    generator: torch.Generator,
    epochs: int = 30,
    batch_size: int = 48,
    lr: float = 0.005,
    momentum: float = 0.9,
    weight_decay: float = 5e-4,
    floor: float = 1e-4,
    rescale: Callable[[Tensor], Tensor] = lambda logits: logits,
    examples: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return a head (weight (C, D), bias (C,)) aligned with all C classes; the one given is not changed.

    Every epoch draws `5 * batch_size` features of each class, shuffles them and takes SGD steps on the
    cross-entropy over all classes, in minibatches of `5 * batch_size`; the rate follows a cosine to zero.
    `rescale` is what the loss does to the logits (B, C) first. `examples`, features (n, D) with class indices (n,),
    are repeated to a quarter of one class's draws at least and added to those of every epoch. `generator` decides
    every random number. Each covariance is factored once.
    """
    if len(statistics) != len(weight):
        raise ValueError(f"{len(weight)} head rows but statistics of {len(statistics)} classes")
    share = 5 * batch_size
    samplers = [s.sampler(floor) for s in statistics]
    labels = torch.arange(len(weight), device=weight.device).repeat_interleave(share)
    known = weight.new_empty(0, weight.shape[1])
    if examples is not None:
        every = torch.arange(max(share // 4, len(examples[0])), device=weight.device) % len(examples[0])
        known, labels = examples[0][every], torch.cat([labels, examples[1][every]])
    head = [weight.clone().requires_grad_(), bias.clone().requires_grad_()]
    optimizer = torch.optim.SGD(head, lr=lr, momentum=momentum, weight_decay=weight_decay)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=max(epochs, 1))
    with torch.enable_grad():
        for _ in range(epochs):
            features = torch.cat([*[sampler.draw(share, generator) for sampler in samplers], known])
            order = torch.randperm(len(labels), generator=generator, device=weight.device)
            for rows in order.split(share):
                loss = F.cross_entropy(rescale(F.linear(features[rows], *head)), labels[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
            scheduler.step()
    return head[0].detach(), head[1].detach()
