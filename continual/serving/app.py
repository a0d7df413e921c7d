"""The server: `/predict`, `/classes`, `/health`, `/metrics`, a page at `/`, and what it corrects."""

from __future__ import annotations

from typing import Any

from fastapi import Depends, FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from fastapi.security import APIKeyHeader
from starlette.exceptions import HTTPException  # what the framework itself raises, too

from continual import __version__
from continual.serving.answering import Server, ServingOptions
from continual.serving.corrections import add_corrections
from continual.serving.forms import form
from continual.serving.model import ModelInUse, described
from continual.serving.outer import Outer
from continual.serving.pages import add_documentation, page
from continual.serving.uploads import RefusedError

KEY = APIKeyHeader(name="X-API-Key", auto_error=False, description="Where the server has one.")


def make_app(model: ModelInUse, options: ServingOptions) -> FastAPI:
    """Return the server of a model as an ASGI application."""
    served = Server(model, options)
    app = FastAPI(title="equimos", version=__version__, lifespan=served.running, docs_url=None, redoc_url=None)
    most = 4 * options.limits.request_bytes
    app.add_middleware(Outer, count=served.counted, most=most, hosts=options.hosts)
    shown, policy = page(model.now.channels)
    keyed = [Depends(served.allowed), Depends(KEY)]
    add_documentation(app)

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
        return HTMLResponse(shown, headers={"Content-Security-Policy": policy})

    @app.get("/health")
    async def health(request: Request) -> dict[str, Any]:
        problem = model.problem
        if problem and not (options.api_key and served.knows_key(request)):  # it may say where files lie
            problem = "the model file has changed and cannot be used: the server's log says why"
        return {"status": "ok", "model": described(model.now), "reload_problem": problem}

    @app.get("/classes", dependencies=keyed)
    async def classes() -> dict[str, Any]:
        learner = model.now.learner
        pairs = zip(learner.classes, learner.state.class_experience, strict=True)
        return {"classes": [{"name": name, "experience": experience} for name, experience in pairs]}

    @app.get("/metrics", dependencies=keyed)
    async def metrics() -> PlainTextResponse:
        return PlainTextResponse(served.metrics.text(), media_type="text/plain; version=0.0.4")

    @app.post("/predict", dependencies=keyed, openapi_extra=form())
    async def predict(request: Request) -> dict[str, Any]:
        return await served.predict(request)

    add_corrections(app, served, keyed)
    return app
