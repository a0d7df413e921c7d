"""One network taught by another what it makes of images, block by block; no label is read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from continual.data.loaders import training_loader
from continual.errors import LearningError
from continual.learning.extractor import Progress
from continual.resizing.images import Unlabelled

#: Images (B, C, H, W) -> tokens (B, N, D) at several places of a network.
Reading = Callable[[Tensor], Sequence[Tensor]]

#: steps in which the rate rises
WARM_UP = 10


class TokenStates(nn.Module):
    """A ViT's tokens after every block, and after its last norm."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return L + 1 tensors (B, N, D) of images (B, C, H, W)."""
        vit = self.network
        tokens = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))
        found = []
        for block in vit.blocks:
            tokens = block(tokens)
            found.append(tokens)
        return [*found, vit.norm(tokens)]


def distil(
    student: Reading,
    teacher: Reading,
    parameters: Iterable[Tensor],
    images: Unlabelled,
    steps: int,
    *,
    lr: float = 3e-4,
    batch_size: int = 16,
    seed: int = 1993,
    device: torch.device = torch.device("cpu"),
    workers: int = 0,
    progress: Progress | None = None,
) -> None:
    """Train parameters until the student's tokens are like the teacher's, on augmented views of images.

    The loss is the mean over places of |h - h*|^2 / var(h*). AdamW; the rate rises for `WARM_UP` steps and falls to
    nothing by a cosine; gradients are clipped at norm 1. Raises LearningError for a loss that is not finite.
    """
    trained = list(parameters)
    optimizer = torch.optim.AdamW(trained, lr=lr, weight_decay=0.0)

    def rate(step: int) -> float:
        return min(1.0, (step + 1) / WARM_UP) * 0.5 * (1 + math.cos(math.pi * step / max(steps, 1)))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    loader, sampler = training_loader(images.training, batch_size, seed, 0, num_workers=workers)
    done = 0
    while done < steps:
        for batch, _ in loader:
            batch = batch.to(device)
            with torch.no_grad():
                wanted = teacher(batch)
            loss = unlikeness(student(batch), wanted)
            if not torch.isfinite(loss):
                raise LearningError("the distillation diverged: lower lr; nothing was made")
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimizer.step()
            schedule.step()
            done += 1
            if progress is not None:
                progress("distilling", done, steps, {"loss": float(loss.detach())})
            if done == steps:
                return
        sampler.epoch += 1


def unlikeness(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """Return the mean over places of the squared difference of tokens, in variances of those that are wanted."""
    each = [((h - own) ** 2).mean() / own.var().clamp_min(1e-12) for h, own in zip(found, wanted, strict=True)]
    return torch.stack(each).mean()
