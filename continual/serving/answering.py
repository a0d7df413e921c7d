"""What the routes of a server share: its options, and the way of an upload to its answers."""

from __future__ import annotations

import asyncio
import hmac
import logging
import re
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from fastapi import FastAPI, Request
from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException  # what the framework itself raises, too
from torch import Tensor

from continual.errors import InputError
from continual.escaping import terminal
from continual.learning.answers import Scores
from continual.serving.batching import Batcher, OverloadedError
from continual.serving.connections import network
from continual.serving.metrics import Metrics
from continual.serving.model import ModelInUse, Served, answer, described
from continual.serving.uploads import Limits, RefusedError, Upload, picture, uploaded

LOG = logging.getLogger(__name__)


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
    collect: Path | None = None  #: where images that people have named are stored; None: none are taken
    learn: bool = False  #: whether they may be learned into the model file
    max_flips: float | None = None  #: a version that breaks more than this share of answers is not kept
    weights: tuple[Path, ...] = ()  #: the backbone's, where the model file does not say where they are

    def __post_init__(self) -> None:
        if self.learn and self.collect is None:
            raise InputError("what is corrected is learned from a folder: name one to collect images in as well")
        if self.api_key is not None and not re.fullmatch(r"[!-~]+", self.api_key):
            raise InputError(
                "the API key is empty, or has characters that no header can carry: use letters, digits and signs of "
                "ASCII, without spaces, or set none"
            )


class Server:
    """What the routes share."""

    def __init__(self, model: ModelInUse, options: ServingOptions) -> None:
        self.model, self.options = model, options
        self.batcher = Batcher(options.batch, options.wait, options.queue, lambda n: self.metrics.batches.observe(n))
        self.metrics = Metrics(lambda: len(self.batcher), lambda: len(model.now.learner.classes))
        # An image that nobody waits for any more has its thread until it is done: there are never more than these.
        self.decoders = ThreadPoolExecutor(options.decoders, "decoder")
        # Nor more than one image explained, or sorted with others, and one change of what people have named.
        self.explainer, self.keeper = ThreadPoolExecutor(1, "explainer"), ThreadPoolExecutor(1, "keeper")
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
            for threads in (self.decoders, self.explainer, self.keeper):
                threads.shutdown(wait=False, cancel_futures=True)

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
        upload = await self.received(request)
        model = self.model.now
        try:
            found = await self.answered(model, upload.files)
        finally:
            await upload.close()
        answers = [
            {"file": name, **answer(model, scores, row, self.options.false_alarm_rate)}
            for (name, _), (scores, row) in zip(upload.files, found, strict=True)
        ]
        self.metrics.images.inc(len(answers))
        self.metrics.unknown.inc(sum(bool(found["unknown"]) for found in answers))
        return {"answers": answers, "model": described(model)}

    async def received(self, request: Request) -> Upload:
        """Receive a form of images, within the limits; whoever has it closes it."""
        async with self._own_uploads(request), self.uploads:
            return await uploaded(request, self.options.limits, self.options.timeout)

    async def answered(self, model: Served, files: Sequence[tuple[str, UploadFile]]) -> list[tuple[Scores, int]]:
        """Return the scores, and a row of them, of each image; raises HTTPException where there are none in time."""
        options = self.options
        try:
            async with asyncio.timeout(options.timeout):
                images = [await self.prepared(model, name, file) for name, file in files]
                return await asyncio.gather(*(self.batcher.ask(model, image) for image in images))
        except RefusedError:
            raise
        except TimeoutError:
            raise HTTPException(504, f"no answer within {options.timeout:g} s: send fewer images, or later") from None
        except OverloadedError as error:
            raise HTTPException(503, f"{error}: send it again", {"Retry-After": "1"}) from None
        except Exception as error:
            LOG.exception("the model failed")
            raise HTTPException(500, f"the model failed ({type(error).__name__})") from error

    async def prepared(self, model: Served, name: str, file: UploadFile) -> Tensor:
        """Decode an image, beside no more than `decoders` others; raises RefusedError."""

        def prepared() -> Tensor:
            data = file.file.read(self.options.limits.image_bytes + 1)
            image = picture(data, name, self.options.limits, model.channels, model.learner.state.value_range)
            try:
                return model.prepare(image)
            except ValueError as error:
                raise RefusedError(422, f"{name} cannot be used: {error}") from None

        return await asyncio.get_running_loop().run_in_executor(self.decoders, prepared)
