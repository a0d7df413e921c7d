"""Small networks that score one view of an orbit: λ, and the canonicaliser's preference."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from equivariant.outputs import first_scores
from equivariant.parts.following import check_channels


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
