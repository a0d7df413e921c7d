"""The images of a multipart request, received within limits of bytes and time."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import HTTPException, Request
from starlette.datastructures import UploadFile

from continual.serving.uploads import Limits, RefusedError


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
    """Return the request, which refuses to go on once it has sent too much."""
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
