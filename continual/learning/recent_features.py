"""Features of images that were asked about lately, in memory: what was answered is learned without another pass."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from continual import files
from continual.learning.feature_cache import digest

#: bytes of features that are kept
LIMIT = 64 * 2**20
#: bytes that a row takes beside its features: names and objects
ENTRY = 1000


class RecentFeatures:
    """Gives and keeps features as a `FeatureStore` does, under the same conditions, in `limit` bytes of memory.

    Those that were not asked for the longest go first. What is kept is bit for bit what was computed first, and given
    for a batch that is known whole: another batch rounds some features otherwise (within 1e-6). Several threads may
    ask.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self.limit = limit
        self._rows: OrderedDict[tuple[bytes, bytes], Tensor] = OrderedDict()
        self._bytes, self._lock = 0, threading.Lock()

    def features(self, images: Tensor, reading: Mapping[str, Any], compute: Callable[[Tensor], Tensor]) -> Tensor:
        """Return `compute(images)`, features (B, D) of prepared images (B, 3, H, W), if one of them is not kept.

        `reading` says in JSON values what decides features besides the image.
        """
        kind = hashlib.blake2b(files.json_text(reading).encode(), digest_size=16).digest()
        names = [(kind, digest(image)) for image in images.cpu()]
        with self._lock:
            found = [self._rows[name] for name in names if name in self._rows]
            if names and len(found) == len(names):
                for name in names:
                    self._rows.move_to_end(name)
                return torch.stack(found).to(images.device)
        features = compute(images)
        new = features.detach().cpu()
        if torch.isfinite(new).all():
            with self._lock:
                for name, row in zip(names, new, strict=True):
                    self._keep(name, row)
        return features

    def _keep(self, name: tuple[bytes, bytes], row: Tensor) -> None:
        if name not in self._rows:
            self._rows[name] = row.clone()  # a view would hold its whole batch
            self._bytes += row.nbytes + ENTRY
        self._rows.move_to_end(name)
        while self._bytes > self.limit:
            self._bytes -= self._rows.popitem(last=False)[1].nbytes + ENTRY
