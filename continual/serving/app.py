"""The server: `/predict`, `/classes`, `/health`, `/metrics`, and a page at `/`."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import logging
import re
import time
from collections.abc import AsyncIterator, Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException  # what the framework itself raises, too
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from torch import Tensor

from continual import __version__
from continual.errors import InputError
from continual.escaping import terminal
from continual.serving.batching import Batcher, OverloadedError
from continual.serving.connections import network
from continual.serving.metrics import Metrics
from continual.serving.model import ModelInUse, Served, answer, described
from continual.serving.origins import foreign
from continual.serving.uploads import Limits, RefusedError, images_of, picture

LOG = logging.getLogger(__name__)
HEADERS = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]
PAGE = Path(__file__).with_name("page.html")


@dataclass(frozen=True)
class ServingOptions:
    """How a server behaves."""

    api_key: str | None = None  #: asked for by /predict, /classes and /metrics
    false_alarm_rate: float = 0.05
    limits: Limits = field(default_factory=Limits)
    timeout: float = 30.0  #: seconds for an upload to arrive, and again for its answer
    batch: int = 32  #: images at most
    wait: float = 0.005  #: seconds a lone image waits for others
    queue: int = 1024  #: images that may wait
    decoders: int = 2  #: images decoded at a time
    uploads: int = 64  #: requests whose bodies are received at a time
    reload_every: float = 1.0  #: seconds between looks at the model file
    hosts: tuple[str, ...] = ("*",)  #: names the server answers to beside loopback's; see `origins`
    head_timeout: float = 10.0  #: seconds for the head of a request to arrive
    per_address: int = 32  #: connections from one address; 0 for any number, where a proxy counts them
    connections: int = 512  #: connections altogether

    def __post_init__(self) -> None:
        if self.api_key is not None and not re.fullmatch(r"[!-~]+", self.api_key):
            raise InputError(
                "the API key is empty, or has characters that no header can carry: use letters, digits and signs of "
                "ASCII, without spaces, or set none"
            )


def make_app(model: ModelInUse, options: ServingOptions) -> FastAPI:
    """Return the server of a model as an ASGI application."""
    served = _Server(model, options)
    app = FastAPI(title="equimos", version=__version__, lifespan=served.running, docs_url=None, redoc_url=None)
    most = 4 * options.limits.request_bytes
    app.add_middleware(_Outer, count=served.counted, most=most, hosts=options.hosts)
    page, policy = _page()

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> JSONResponse:
        return JSONResponse({"error": error.reason}, error.status)

    @app.exception_handler(HTTPException)
    async def failed(request: Request, error: HTTPException) -> JSONResponse:
        return JSONResponse({"error": error.detail}, error.status_code, error.headers)

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> JSONResponse:
        return JSONResponse({"error": f"the server failed ({type(error).__name__})"}, 500)

    @app.get("/", response_class=HTMLResponse, include_in_schema=False)
    async def show() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    @app.get("/health")
    async def health(request: Request) -> dict[str, Any]:
        problem = model.problem
        if problem and not (options.api_key and served.knows_key(request)):  # it may say where files lie
            problem = "the model file has changed and cannot be used: the server's log says why"
        return {"status": "ok", "model": described(model.now), "reload_problem": problem}

    @app.get("/classes", dependencies=[Depends(served.allowed)])
    async def classes() -> dict[str, Any]:
        learner = model.now.learner
        pairs = zip(learner.classes, learner.state.class_experience, strict=True)
        return {"classes": [{"name": name, "experience": experience} for name, experience in pairs]}

    @app.get("/metrics", dependencies=[Depends(served.allowed)])
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(served.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.post("/predict", dependencies=[Depends(served.allowed)])
    async def predict(request: Request) -> dict[str, Any]:
        return await served.predict(request)

    return app


def _page() -> tuple[str, str]:
    """Return the page, and a policy under which it runs its own style and script, and no other."""
    text = PAGE.read_text(encoding="utf-8")
    hashes = {}
    for kind in ("style", "script"):
        inside = re.search(rf"<{kind}>(.*?)</{kind}>", text, flags=re.DOTALL)
        assert inside is not None
        hashes[kind] = base64.b64encode(hashlib.sha256(inside[1].encode()).digest()).decode()
    return text, (
        f"default-src 'none'; style-src 'sha256-{hashes['style']}'; script-src 'sha256-{hashes['script']}'; "
        "img-src blob: data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


class _Outer:
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
                path = scope["path"] if "endpoint" in scope else "other"
                self.count(path, message["status"], time.perf_counter() - started)
            await send(message)

        await app(scope, heard, said)


class _Server:
    """What the routes share."""

    def __init__(self, model: ModelInUse, options: ServingOptions) -> None:
        self.model, self.options = model, options
        self.batcher = Batcher(options.batch, options.wait, options.queue, lambda n: self.metrics.batches.observe(n))
        self.metrics = Metrics(lambda: len(self.batcher), lambda: len(model.now.learner.classes))
        # An image that nobody waits for any more has its thread until it is done: there are never more than these.
        self.decoders = ThreadPoolExecutor(options.decoders, "decoder")
        self.uploads = asyncio.Semaphore(options.uploads)
        self._by_address: WeakValueDictionary[str, asyncio.Semaphore] = WeakValueDictionary()

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        """Answer and watch the model file for as long as the application lives."""
        self.batcher.start()
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching
            await self.batcher.stop()
            self.decoders.shutdown(wait=False, cancel_futures=True)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(self.options.reload_every)
            before = self.model.problem
            if await asyncio.to_thread(self.model.refresh):
                self.metrics.reloads.labels("loaded").inc()
            elif self.model.problem not in (None, before):
                LOG.warning("the changed model file cannot be used: %s", terminal(str(self.model.problem)))
                self.metrics.reloads.labels("failed").inc()

    def counted(self, path: str, status: int, seconds: float) -> None:
        """Count an answer."""
        self.metrics.requests.labels(path, status).inc()
        if path == "/predict":
            self.metrics.seconds.observe(seconds)

    async def allowed(self, request: Request) -> None:
        """Let pass who knows the key, in `X-API-Key` or as `Authorization: Bearer`; raises RefusedError."""
        if not self.knows_key(request):
            raise RefusedError(401, "give the API key in the header X-API-Key, or as Authorization: Bearer")

    def knows_key(self, request: Request) -> bool:
        """Tell whether a request has the key, or none is asked for."""
        bearer = request.headers.get("authorization", "")
        given = request.headers.get("x-api-key") or (bearer[7:] if bearer[:7].lower() == "bearer " else "")
        return self.options.api_key is None or hmac.compare_digest(given.encode(), self.options.api_key.encode())

    def _own_uploads(self, request: Request) -> AbstractAsyncContextManager[None]:
        """Return the share of uploads at a time that one address has: a few cannot take all of them."""
        if not self.options.per_address or request.client is None:
            return nullcontext()
        share = asyncio.Semaphore(max(1, self.options.per_address // 4))
        return self._by_address.setdefault(network(request.client.host), share)

    async def predict(self, request: Request) -> dict[str, Any]:
        """Answer for all images of a request, by the model that is in use when it has arrived, or for none."""
        options = self.options
        async with self._own_uploads(request), self.uploads:
            files = await images_of(request, options.limits, options.timeout)
        model = self.model.now
        try:
            async with asyncio.timeout(options.timeout):
                images = [await self._prepared(model, name, file) for name, file in files]
                found = await asyncio.gather(*(self.batcher.ask(model, image) for image in images))
        except RefusedError:
            raise
        except TimeoutError:
            raise HTTPException(504, f"no answer within {options.timeout:g} s: send fewer images, or later") from None
        except OverloadedError as error:
            raise HTTPException(503, f"{error}: send it again", {"Retry-After": "1"}) from None
        except Exception as error:
            LOG.exception("the model failed")
            raise HTTPException(500, f"the model failed ({type(error).__name__})") from error
        finally:
            for _, file in files:
                await file.close()
        answers = [
            {"file": name, **answer(model, scores, row, options.false_alarm_rate)}
            for (name, _), (scores, row) in zip(files, found, strict=True)
        ]
        self.metrics.images.inc(len(answers))
        self.metrics.unknown.inc(sum(bool(found["unknown"]) for found in answers))
        return {"answers": answers, "model": described(model)}

    async def _prepared(self, model: Served, name: str, file: UploadFile) -> Tensor:
        def prepared() -> Tensor:
            data = file.file.read(self.options.limits.image_bytes + 1)
            image = picture(data, name, self.options.limits, model.channels)
            try:
                return model.prepare(image)
            except ValueError as error:
                raise RefusedError(422, f"{name} cannot be used: {error}") from None

        return await asyncio.get_running_loop().run_in_executor(self.decoders, prepared)
