"""Features that need not be computed twice: those of an image under weights that are frozen for good."""

import hashlib
from collections.abc import Callable, Hashable, Mapping, Sequence

import torch
from torch import Tensor


class FeatureCache:
    """Remembers features (D,) by image content and by the weights they were computed with.

    One cache serves one stream, learned by one learner (and its variants); it holds D numbers for every
    image and every set of weights the image was run with, on their device.
    """

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, Hashable], Tensor] = {}
        self._old = 0

    def features(self, images: Tensor, weights: Sequence[Hashable], compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Return features (B, D) of images (B, 3, H, W), image i under the weights named `weights[i]`.

        `compute(rows)` gives those of the images with the given indices (M,), and is called at most once.
        """
        keys = [(digest(image), name) for image, name in zip(images, weights, strict=True)]
        missing = [row for row, key in enumerate(keys) if key not in self._known]
        if missing:
            found = compute(torch.tensor(missing, device=images.device))
            self._known.update(zip((keys[row] for row in missing), found, strict=True))
        return torch.stack([self._known[key] for key in keys])

    def newest(self) -> dict[Hashable, tuple[Tensor, Tensor]]:
        """Return what was remembered since the last call: by weights, digests (n, 16) uint8 and features (n, D)."""
        found: dict[Hashable, list[tuple[bytes, Tensor]]] = {}
        for (image, name), features in list(self._known.items())[self._old :]:
            found.setdefault(name, []).append((image, features))
        self._old = len(self._known)
        return {
            name: (
                torch.frombuffer(bytearray(b"".join(image for image, _ in pairs)), dtype=torch.uint8).reshape(-1, 16),
                torch.stack([features for _, features in pairs]),
            )
            for name, pairs in found.items()
        }

    def remember(self, kept: Mapping[Hashable, tuple[Tensor, Tensor]], device: torch.device) -> None:
        """Take back what `newest` gave."""
        for name, (images, features) in kept.items():
            rows = features.to(device)
            self._known.update(((bytes(image.tolist()), name), row) for image, row in zip(images, rows, strict=True))
        self._old = len(self._known)


def cached(cache: FeatureCache | None, images: Tensor, name: Hashable, compute: Callable[[Tensor], Tensor]) -> Tensor:
    """Return `compute(images)`, features (B, D) under the weights of that name, from a cache where it has them."""
    if cache is None:
        return compute(images)
    return cache.features(images, [name] * len(images), lambda rows: compute(images[rows]))


def digest(image: Tensor) -> bytes:
    """Return 16 bytes that stand for a prepared image's."""
    return hashlib.blake2b(image.cpu().numpy().tobytes(), digest_size=16).digest()
