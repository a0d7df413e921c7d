"""Bytes from a stranger to pictures, or a reason why not, within limits of size and time: no others are decoded."""

from __future__ import annotations

import asyncio
import io
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from PIL import Image, UnidentifiedImageError
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from continual.data.images import FORMATS, upright
from continual.serving.scans import scans, scans_within


class RefusedError(Exception):
    """An upload that is not answered: an HTTP status from 400 to 499, and why."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True)
class Limits:
    """How large what is sent may be."""

    image_bytes: int = 10 * 2**20
    pixels: int = 25_000_000  #: per image, once decoded
    images: int = 32  #: of one request
    scans: int = 32  #: of one JPEG: a decoder goes through all pixels once for each

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
        if data[:2] == b"\xff\xd8":
            _check_scans(scans(data), name, limits)
        with Image.open(io.BytesIO(data), formats=list(FORMATS)) as image:
            _check_scans(scans_within(image, data), name, limits)
            if image.width * image.height > limits.pixels:
                size = f"{image.width} x {image.height} pixels"
                raise RefusedError(413, f"{name} has {size}: at most {limits.pixels} are taken")
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


def _check_scans(found: int, name: str, limits: Limits) -> None:
    if found > limits.scans:
        raise RefusedError(413, f"{name} has {found} scans or parts: at most {limits.scans} scans are taken")


async def images_of(request: Request, limits: Limits, timeout: float) -> list[tuple[str, UploadFile]]:
    """Return the names and files of a `multipart/form-data` request, under whatever field names.

    Raises RefusedError for another kind of request, one that is too large, slow, malformed or without images.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise RefusedError(415, "send images as multipart/form-data, e.g. curl -F image=@photo.jpg")
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > limits.request_bytes:
        raise RefusedError(413, f"a request may have at most {limits.request_bytes} bytes")
    try:
        async with asyncio.timeout(timeout):
            form = await _counted(request, limits.request_bytes).form(max_files=limits.images, max_fields=limits.images)
    except TimeoutError:
        raise RefusedError(408, f"the request did not arrive within {timeout:g} s") from None
    except RefusedError:
        raise
    except HTTPException as error:
        if error.detail.startswith("Too many files"):
            raise RefusedError(413, f"at most {limits.images} images are taken at a time") from None
        raise RefusedError(error.status_code, f"malformed multipart/form-data: {error.detail}") from None
    except Exception as error:  # what the parser raises for what it did not foresee
        raise RefusedError(400, f"malformed multipart/form-data ({type(error).__name__})") from None
    files = [value for _, value in form.multi_items() if isinstance(value, UploadFile)]
    if not files:
        raise RefusedError(400, "there is no file in the request: send at least one image, each with a file name")
    try:
        return [(_name(file, number), file) for number, file in enumerate(files)]
    except RefusedError:
        await form.close()
        raise


def _counted(request: Request, most: int) -> Request:
    """Return the request, which refuses more once it has sent too much."""
    received = 0

    async def receive() -> Any:
        nonlocal received
        message = await request.receive()
        received += len(message.get("body", b""))
        if received > most:
            raise RefusedError(413, f"a request may have at most {most} bytes")
        return message

    return Request(request.scope, receive)


def _name(file: UploadFile, number: int) -> str:
    """Return what to call a file; raises RefusedError for a name that is not UTF-8, and could be written nowhere."""
    try:
        dict(file.headers.raw).get(b"content-disposition", b"").decode()
        (file.filename or "").encode()
    except UnicodeError:
        raise RefusedError(400, f"the name of image {number} is not UTF-8: rename it") from None
    return file.filename or f"image {number}"
