"""Bytes from a stranger to pictures, or a reason why not, within limits of size and time: no others are decoded."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from fastapi import Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException

from continual.data.decoding import decode
from continual.data.file_kinds import UnreadableError
from continual.errors import NeedsExtraError
from continual.serving.scans import most_scans

#: the status and the words for each kind of `UnreadableError`
REFUSALS = {
    "unknown": (415, "is not an image of a kind that is taken"),
    "large": (413, "is too large"),
    "damaged": (422, "is damaged or cut off"),
    "unusable": (422, "cannot be read"),
}
FEWER = "send fewer or smaller images"


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
    def images_bytes(self) -> int:
        """The images of one request together: two of the largest, or many small ones."""
        return 2 * self.image_bytes

    @property
    def request_bytes(self) -> int:
        """All that one request may send: its images, their names, and texts."""
        return self.images_bytes + 2**16


def picture(data: bytes, name: str, limits: Limits, channels: int = 3, value_range: str | None = None) -> Any:
    """Decode an image, see `continual.data.decoding`; raises RefusedError, which names it by `name`."""
    if not data:
        raise RefusedError(400, f"{name} is empty")
    if len(data) > limits.image_bytes:
        raise RefusedError(
            413, f"{name} has {len(data)} bytes: send it smaller, at most {limits.image_bytes} are taken (--max-bytes)"
        )
    if (rounds := most_scans(data)) > limits.scans:
        raise RefusedError(413, f"{name} has {rounds} scans or parts: at most {limits.scans} scans are taken")
    try:
        how: dict[str, Any] = {"most_pixels": limits.pixels, "channels": channels, "value_range": value_range}
        return decode(data, name=name, **how).image
    except NeedsExtraError as error:
        raise RefusedError(415, f"{name} is not taken: {error}") from None
    except UnreadableError as error:
        status, what = REFUSALS[error.kind]
        cure = "; send it smaller, or start the server with another --max-pixels" if error.kind == "large" else ""
        raise RefusedError(status, f"{name} {what}: {error}{cure}") from None


@dataclass(frozen=True)
class Upload:
    """What a `multipart/form-data` request has brought."""

    files: list[tuple[str, UploadFile]]  #: with their names
    fields: dict[str, str]  #: texts by their names

    async def close(self) -> None:
        """Let the files go."""
        for _, file in self.files:
            await file.close()


async def uploaded(request: Request, limits: Limits, timeout: float) -> Upload:
    """Return the files of a `multipart/form-data` request, under whatever field names, and its texts.

    Raises RefusedError for another kind of request, one that is too large, slow, malformed or without images.
    """
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        raise RefusedError(415, "send images as multipart/form-data, e.g. curl -F image=@photo.jpg")
    length = request.headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > limits.request_bytes:
        raise RefusedError(413, f"a request may have at most {limits.request_bytes} bytes: {FEWER}")
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
    fields = {name: value for name, value in form.multi_items() if isinstance(value, str)}
    try:
        return Upload([(_name(file, number), file) for number, file in enumerate(files)], fields)
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
            raise RefusedError(413, f"a request may have at most {most} bytes: {FEWER}")
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
