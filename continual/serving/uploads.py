"""Bytes from a stranger to a picture, or a reason why not. Nothing of a size not allowed is decoded."""

from __future__ import annotations

import io
from dataclasses import dataclass

from PIL import Image, UnidentifiedImageError

from continual.data.images import FORMATS, upright


class RefusedError(Exception):
    """An upload that is not answered: an HTTP status from 400 to 499, and why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class Limits:
    """How large what is sent may be."""

    image_bytes: int = 10 * 2**20
    pixels: int = 25_000_000  #: of an image, once decoded
    images: int = 32  #: of one request

    @property
    def request_bytes(self) -> int:
        """All that one request may send: two of the largest images, or many small ones."""
        return 2 * self.image_bytes + 2**16


def picture(data: bytes, name: str, limits: Limits) -> Image.Image:
    """Decode an image (of several frames the first), see `upright`; raises RefusedError, which names it by `name`."""
    if not data:
        raise RefusedError(400, f"{name} is empty")
    if len(data) > limits.image_bytes:
        raise RefusedError(413, f"{name} has {len(data)} bytes: at most {limits.image_bytes} are taken")
    try:
        with Image.open(io.BytesIO(data), formats=list(FORMATS)) as image:
            _check_pixels(image.width, image.height, name, limits)
            return upright(image)
    except RefusedError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise RefusedError(413, f"{name} has too many pixels: at most {limits.pixels} are taken") from None
    except UnidentifiedImageError:
        raise RefusedError(415, f"{name} is not an image of a kind that is taken: {', '.join(FORMATS)}") from None
    except ValueError as error:
        raise RefusedError(422, f"{name} cannot be read: {error}") from None
    except Exception as error:  # every decoder has its own for data that is cut off or damaged
        raise RefusedError(422, f"{name} is damaged or cut off ({type(error).__name__})") from None


def _check_pixels(width: int, height: int, name: str, limits: Limits) -> None:
    if width * height > limits.pixels:
        raise RefusedError(413, f"{name} has {width} x {height} pixels: at most {limits.pixels} are taken")
