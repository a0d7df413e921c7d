"""Small networks that score one view of an orbit: λ, and the canonicaliser's preference."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

from equivariant.outputs import first_scores
from equivariant.parts.following import check_channels
from equivariant.ties import widened


class FeatureScore(nn.Module):
    """Score features with two hidden layers of 100 units, as in the λ-equitune paper.

    Takes features (n, D), tokens (n, N, D) or maps (n, D, H, W), the latter two averaged over their places, or several
    outputs, of which it reads the first; returns (n,). The last layer starts at zero, so all views start with equal
    scores.
    """

    def __init__(self, width: int, hidden: int = 100) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, 1)
        )
        for parameter in self.layers[-1].parameters():
            nn.init.zeros_(parameter)

    def forward(self, features: Any) -> Tensor:
        """Return one score per row, (n,)."""
        features = first_scores(features)
        if features.ndim == 3:
            features = features.mean(1)
        elif features.ndim > 3:
            features = features.flatten(2).mean(2)
        return self.layers(features).squeeze(-1)


class ImageScore(nn.Module):
    """Score images (n, C, H, W) with three strided convolutions; returns (n,)."""

    def __init__(self, channels: int = 3, width: int = 32) -> None:
        super().__init__()
        self.channels = channels
        layers: list[nn.Module] = []
        for inner, kernel in ((channels, 5), (width, 3), (width, 3)):
            layers += [nn.Conv2d(inner, width, kernel, stride=2, padding=kernel // 2), nn.ReLU()]
        self.layers = nn.Sequential(*layers)
        self.last = nn.Linear(width, 1)

    def forward(self, images: Tensor) -> Tensor:
        """Return one score per image, (n,); raises InputError for another number of channels."""
        check_channels(self.channels, images, f"make it with ImageScore({images.shape[1]})")
        return self.last(self.layers(images).mean((2, 3))).squeeze(-1)


def wide_scores(network: nn.Module, images: Tensor) -> Tensor:
    """Return what a network says of images (n, …), (n,) or (n, 1), computed in float32 or wider, autocast or not.

    Views of an image are exact copies of its pixels, so that nothing but the network rounds. In bfloat16 and float16 it
    rounds by more than views differ, and all of them would tie.
    """
    images = widened(images) if images.is_floating_point() else images
    with _without_autocast(images.device.type):
        held = dict(chain(network.named_parameters(), network.named_buffers()))
        wide = {name: widened(tensor) for name, tensor in held.items() if tensor.is_floating_point()}
        if all(tensor is held[name] for name, tensor in wide.items()):
            return network(images)
        scores = torch.func.functional_call(network, wide, images)
    with torch.no_grad():  # what a batch norm counts in training
        for name, buffer in network.named_buffers():
            if network.training and name in wide:
                buffer.copy_(wide[name])
    return scores


def _without_autocast(device: str) -> AbstractContextManager[Any]:
    """Turn autocast off where it is on; a graph that is exported would hold it as a step of its own."""
    if torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device):
        return torch.autocast(device, enabled=False)
    return nullcontext()
