"""Around every route: other sites are refused, answers counted, and what is refused is received to its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection
from contextlib import suppress

from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from continual.serving.origins import foreign

HEADERS = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]


class Outer:
    """Refuses other sites, counts answers, says that they are not to be kept, and receives the rest of what it refuses.

    A client that is still sending when the connection closes would see no reason, but a reset. Of what it sends, at
    most `most` bytes are received and forgotten, for at most `patience` seconds. `count(path, status, seconds)`.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        count: Callable[[str, int, float], None],
        most: int,
        hosts: Collection[str],
        patience: float = 5.0,
    ) -> None:
        self.app, self.count, self.most, self.hosts, self.patience = app, count, most, hosts, patience

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started, arriving, app = time.perf_counter(), True, self.app
        if scope["method"] == "HEAD":  # answered as GET is; the body is left out where it is sent
            scope = {**scope, "method": "GET"}
        if (problem := foreign(Headers(scope=scope), self.hosts)) is not None:
            app = JSONResponse({"error": problem[1]}, problem[0])

        async def heard() -> Message:
            nonlocal arriving
            message = await receive()
            arriving = message.get("more_body", False)
            return message

        async def rest() -> None:
            received = 0
            while arriving and received < self.most:
                received += len((await heard()).get("body", b""))

        async def said(message: Message) -> None:
            if message["type"] == "http.response.start":
                if message["status"] >= 400 and message["status"] != 408:
                    with suppress(TimeoutError):
                        await asyncio.wait_for(rest(), self.patience)
                message = {**message, "headers": [*message["headers"], *HEADERS]}
                self.count(_route(scope), message["status"], time.perf_counter() - started)
            await send(message)

        await app(scope, heard, said)


def _route(scope: Scope) -> str:
    """Return the path of the route that a request took, or of the mounted application; `other` where there is none.

    A path as it was asked for is counted for a route of one path alone: each is kept, and strangers have many.
    """
    if (route := scope.get("route")) is not None:
        return str(route.path)
    if "endpoint" not in scope or scope.get("path_params"):
        return "other"
    return str(scope.get("root_path") or scope["path"])
