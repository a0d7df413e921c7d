"""The routes by which people correct answers: collect, plan, learn, undo, sort unknown images, and ask why."""

from __future__ import annotations

import asyncio
import base64
import io
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Executor
from contextlib import asynccontextmanager
from typing import Any, TypeVar

import torch
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from PIL.Image import Image
from starlette.exceptions import HTTPException
from torch import Tensor

from continual.escaping import terminal
from continual.explaining.explain import explained
from continual.serving.answering import Server
from continual.serving.collected import Collected, class_named
from continual.serving.forms import form
from continual.serving.model import Served
from continual.serving.teaching import Teaching
from continual.serving.uploads import RefusedError, Upload
from continual.uncertainty.clusters import clustered

T = TypeVar("T")
LOG = logging.getLogger(__name__)
NONE = "this server collects no corrections: start it with --collect FOLDER"


def add_corrections(app: FastAPI, server: Server, keyed: Sequence[Any]) -> None:
    """Add the routes to a server, all of them for those who know the key."""
    options = server.options
    teaching = None if options.collect is None else Teaching(
        server.model.path, server.model, Collected(options.collect), options.max_flips, options.weights
    )  # fmt: skip
    changing: set[asyncio.Task[Any]] = set()
    if options.learn:
        server.model.keep_features()

    @asynccontextmanager
    async def limited() -> AsyncIterator[None]:
        """Give up on what takes longer than an answer may."""
        try:
            async with asyncio.timeout(options.timeout):
                yield
        except TimeoutError:
            raise HTTPException(504, f"not done within {options.timeout:g} s: send fewer images, or later") from None

    async def in_time(work: Callable[[], T], threads: Executor = server.keeper) -> T:
        """Do what may take a while in a thread, which is not another's until that has ended, waited for or not."""
        async with limited():
            return await asyncio.get_running_loop().run_in_executor(threads, work)

    async def decoded(model: Served, upload: Upload) -> list[Tensor]:
        async with limited():
            return [await server.prepared(model, name, file) for name, file in upload.files]

    def taught(*, learns: bool = False) -> Teaching:
        if teaching is None:
            raise RefusedError(404, NONE)
        if learns and not options.learn:
            raise RefusedError(403, "this server learns nothing: start it with --learn, or run `equimos learn`")
        return teaching

    @app.get("/corrections", dependencies=keyed)
    async def corrections() -> dict[str, Any]:
        if teaching is None:
            return {"collects": False, "learns": False}
        limits = {"images": options.limits.images, "bytes": options.limits.images_bytes}
        return {"collects": True, "learns": options.learn, "limits": limits, **await in_time(lambda: _state(teaching))}

    @app.post("/corrections", dependencies=keyed, openapi_extra=form(**{"class": {"type": "string"}}))
    async def collect(request: Request) -> dict[str, Any]:
        kept = taught()
        upload = await server.received(request)
        try:
            model = server.model.now
            text, known = upload.fields.get("class", ""), model.learner.classes
            label = await in_time(lambda: class_named(text, known, (name for _, name in kept.collected)))
            await decoded(model, upload)  # what cannot be decoded is refused, and stored nowhere
            stored = await in_time(lambda: _stored(kept, upload, label))
        finally:
            await upload.close()
        server.metrics.corrected.inc(stored)
        return {"class": label, "new": label not in model.learner.classes, "stored": stored}

    @app.delete("/corrections", dependencies=keyed)
    async def discard() -> dict[str, Any]:
        kept = taught()
        return {"discarded": await in_time(kept.discard), "folder": kept.collected.said}

    async def changed(
        teacher: Teaching, work: Callable[[], dict[str, Any]], wanted: str
    ) -> dict[str, Any] | JSONResponse:
        """Change the model; what takes longer than an answer may goes on, and GET /corrections says when it is done."""

        def ended(done: asyncio.Task[Any]) -> None:
            if not done.cancelled() and (error := done.exception()) is not None:
                LOG.error("not %s: %s", wanted, terminal(str(error)))
                teacher.last = {"event": f"not {wanted}: {error}", "images": 0, "review": []}

        task = asyncio.create_task(asyncio.to_thread(work))
        changing.add(task)
        task.add_done_callback(changing.discard)
        try:
            return await asyncio.wait_for(asyncio.shield(task), options.timeout)
        except TimeoutError:
            task.add_done_callback(ended)
            return JSONResponse({"learning": True}, 202)

    @app.post("/learn", dependencies=keyed, response_model=None)
    async def learn() -> dict[str, Any] | JSONResponse:
        teacher = taught(learns=True)
        return await changed(teacher, teacher.learn, "learned")

    @app.post("/undo", dependencies=keyed, response_model=None)
    async def undo() -> dict[str, Any] | JSONResponse:
        teacher = taught(learns=True)
        return await changed(teacher, teacher.undo, "undone")

    @app.post("/group", dependencies=keyed, openapi_extra=form())
    async def group(request: Request) -> dict[str, Any]:
        upload = await server.received(request)
        try:
            model = server.model.now
            images = await decoded(model, upload)
        finally:
            await upload.close()

        def sort() -> list[int]:
            extractor, size = model.learner.extractor, model.learner.settings.eval_batch_size
            with torch.no_grad():
                batches = torch.stack(images).split(size)
                rows = [extractor.frozen_features(batch.to(model.learner.device)).cpu() for batch in batches]
            return clustered(torch.cat(rows).numpy())

        return {"groups": await in_time(sort, server.explainer)}

    @app.post("/explain", dependencies=keyed, openapi_extra=form())
    async def explain(request: Request) -> dict[str, Any]:
        upload = await server.received(request)
        try:
            if len(upload.files) > 1:
                raise RefusedError(413, "one image is explained at a time")
            model = server.model.now
            (image,) = await decoded(model, upload)
        finally:
            await upload.close()
        learner = model.learner.variant()
        learner.store = None  # covered images are asked about once
        learner._forget_cached()  # what an edited model asks has a store of its own

        def why() -> dict[str, Any]:
            found = explained(learner, image)
            like = server.model.like(model, learner, image)
            return {
                **found.to_json(),
                "picture": None if found.picture is None else _url(found.picture),
                "thumbnails": [
                    {"class": name, "similarity": near, "picture": _url(small)} for name, near, small in like
                ],
            }

        return await in_time(why, server.explainer)


def _url(picture: Image) -> str:
    """Return a picture as a page shows it without asking for it."""
    drawn = io.BytesIO()
    picture.save(drawn, "PNG")
    return f"data:image/png;base64,{base64.b64encode(drawn.getvalue()).decode()}"


def _state(teaching: Teaching) -> dict[str, Any]:
    """Return what is collected, and what learning it would do, in the words of `equimos learn`."""
    plan = teaching.plan()
    counts: dict[Any, int] = {}
    for picture in plan.learn:
        counts[picture.entry.label] = counts.get(picture.entry.label, 0) + 1
    return {
        "pending": [{"class": name, "images": n, "new": name not in plan.known} for name, n in counts.items()],
        "plan": plan.lines(plan.known),
        "learning": teaching.learning,
        "undo": teaching.undoable,
        "last": teaching.last,
        "discarded": teaching.collected.said,
    }


def _stored(teaching: Teaching, upload: Upload, label: Any) -> int:
    for _, file in upload.files:
        file.file.seek(0)
    return teaching.keep([file.file.read() for _, file in upload.files], label)
