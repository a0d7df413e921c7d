"""Image files opened once and kept in memory, for the many epochs of one experience."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image
from torch.utils.data import get_worker_info

from continual.data.images import EncodedImage, open_image

LIMIT = 2**29  #: bytes that are kept: some 30,000 images of 64 x 64 pixels, or 500 of 500 x 500


class DecodedOnce(Sequence[Any]):
    """A sequence of images whose files are opened when they are first asked for, and not again.

    They are kept up to `limit` bytes; what does not fit, and what is no file, is handed on. Of several loading
    processes each keeps what it has opened, within its share of the limit.
    """

    def __init__(self, images: Sequence[Any], limit: int = LIMIT) -> None:
        self.images, self.limit, self.held = images, limit, 0
        self._kept: dict[int, Image.Image] = {}

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: Any) -> Any:
        if index in self._kept:
            return self._kept[index]
        raw = self.images[index]
        if not isinstance(raw, str | Path | EncodedImage):
            return raw
        image, worker = open_image(raw), get_worker_info()
        assert isinstance(image, Image.Image)
        size = 4 * image.width * image.height  # of a pixel in memory, the fourth byte is unused
        if self.held + size <= self.limit // (1 if worker is None else worker.num_workers):
            self._kept[index] = image
            self.held += size
        return image
