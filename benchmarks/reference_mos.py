"""The published MOS procedure, stated plainly, as the other side of our measurements.

What it does and we do not: it keeps adapters as separate modules, merges all of them once per block inside
`forward`, runs attention without a fused kernel, evaluates every finished adapter on every image before it looks
at one in Python, and builds every class's Gaussian again every epoch. tests/parity checks it against the recorded
outputs of the published code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import MultivariateNormal


class Adapter(nn.Module):
    """scale · up(dropout(relu(down(h))))."""

    def __init__(self, width: int, bottleneck: int = 16, scale: float = 0.1) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(width, bottleneck), nn.Linear(bottleneck, width)
        self.dropout, self.scale = nn.Dropout(0.1), scale

    def forward(self, h: Tensor) -> Tensor:
        return self.up(self.dropout(F.relu(self.down(h)))) * self.scale


class ReferenceMOS(nn.Module):
    """A timm ViT (CLS token, no rotary positions) with one list of adapters in training and T finished ones."""

    def __init__(self, vit: Any, bottleneck: int = 16, scale: float = 0.1) -> None:
        super().__init__()
        self.vit = vit.requires_grad_(False).eval()
        for block in vit.blocks:
            block.attn.fused_attn = False
        self.shape = (len(vit.blocks), vit.embed_dim, bottleneck, scale)
        self.working = self.new_stack()
        self.finished: list[nn.ModuleList] = []
        self.total: dict[str, Tensor] = {}  #: the sum of the finished adapters
        self.alpha = 0.1

    def new_stack(self) -> nn.ModuleList:
        depth, width, bottleneck, scale = self.shape
        return nn.ModuleList(Adapter(width, bottleneck, scale) for _ in range(depth))

    def keep(self, stack: nn.ModuleList) -> None:
        """Count an adapter as finished."""
        self.finished.append(stack)
        for name, tensor in stack.named_parameters():
            self.total[name] = self.total.get(name, 0) + tensor.data

    def merge(self) -> None:
        """Pull every tensor of the working adapter towards the mean of the finished ones, one after another."""
        for name, tensor in self.working.named_parameters():
            total = self.total[name] = self.total[name].to(tensor.device)
            mean = total / len(self.finished)
            tensor.data = (1 - self.alpha) * tensor.data + self.alpha * mean

    def features(self, images: Tensor, stack: nn.ModuleList, *, merging: bool = False) -> Tensor:
        """Return features (B, D) of images (B, 3, H, W) under an adapter; `merging` as the published forward does."""
        vit = self.vit
        x = vit.norm_pre(vit._pos_embed(vit.patch_embed(images)))
        for block, adapter in zip(vit.blocks, stack, strict=True):
            if merging:
                self.merge()
            h = x + block.ls1(block.attn(block.norm1(x)))
            x = h + block.ls2(block.mlp(block.norm2(h))) + adapter(h)
        return vit.norm(x)[:, 0]

    def predict(
        self, images: Tensor, head: tuple[Tensor, Tensor], prototypes: Tensor, class_experience: Tensor
    ) -> Tensor:
        """Return the ensemble's scores (B, C) after self-refined retrieval: T + 1 passes, then image by image."""
        first = self.features(images, self.finished[0])
        under = torch.stack([self.features(images, stack) for stack in self.finished], dim=1)
        p0 = F.normalize(first, dim=-1) @ F.normalize(prototypes, dim=-1).T
        rows = []
        for i in range(len(images)):
            k = int(class_experience[p0[i].argmax()])
            for _ in range(4):
                logits = F.linear(under[i, k], *head)
                wanted = int(class_experience[logits.argmax()])
                if wanted == k:
                    break
                k = wanted
            rows.append(logits.softmax(-1) + (p0[i] * len(self.finished)).softmax(-1))
        return torch.stack(rows)


def align(
    weight: Tensor,
    bias: Tensor,
    means: Sequence[Tensor],
    covariances: Sequence[Tensor],
    epochs: int = 30,
    batch_size: int = 48,
) -> None:
    """Retrain a head in place on features drawn from class Gaussians that are built from scratch every epoch."""
    share, count = 5 * batch_size, len(means)
    head = [weight.requires_grad_(), bias.requires_grad_()]
    optimizer = torch.optim.SGD(head, lr=0.005, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs)
    for _ in range(epochs):
        drawn = [
            MultivariateNormal(mean, covariance).sample((share,))
            for mean, covariance in zip(means, covariances, strict=True)
        ]
        features, labels = torch.cat(drawn), torch.arange(count).repeat_interleave(share)
        order = torch.randperm(len(labels))
        features, labels = features[order], labels[order]
        for step in range(count):
            rows = slice(step * share, (step + 1) * share)
            loss = F.cross_entropy(F.linear(features[rows], *head), labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        scheduler.step()
