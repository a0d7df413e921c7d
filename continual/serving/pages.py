"""The pages that people see: the one at `/`, and the description of every route at `/docs`, which needs no network."""

from __future__ import annotations

import base64
import hashlib
import re
from importlib.util import find_spec
from pathlib import Path

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response

from continual.data.bands import pictures
from continual.data.file_kinds import SUFFIXES, is_read

PAGE = Path(__file__).with_name("page.html")
#: what Swagger UI consists of, and what it is
ASSETS = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}


def page(channels: int = 3) -> tuple[str, str]:
    """Return the page, and a policy under which it runs its own style and script, and no other.

    Its file chooser offers what a model of so many channels takes here.
    """
    text = PAGE.read_text(encoding="utf-8").replace("{suffixes}", ",".join(_suffixes(channels)))
    style, script = (_hash(text, kind) for kind in ("style", "script"))
    return text, (
        f"default-src 'none'; style-src 'sha256-{style}'; script-src 'sha256-{script}'; img-src blob: data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


def _suffixes(channels: int) -> list[str]:
    if not pictures(channels):
        return [".npy", *(suffix for suffix, kind in SUFFIXES.items() if kind == "TIFF")]
    return [suffix for suffix, kind in SUFFIXES.items() if is_read(kind)]


def _hash(text: str, kind: str) -> str:
    """Return the hash of what is inside the last element of a kind, as a policy names it."""
    inside = re.findall(rf"<{kind}>(.*?)</{kind}>", text, flags=re.DOTALL)[-1]
    return base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()


def add_documentation(app: FastAPI) -> None:
    """Add `/docs`: Swagger UI, from the files of the package fastapi-offline, or word of how to get them."""
    package = find_spec("fastapi_offline")
    if package is None or package.origin is None:

        @app.get("/docs", include_in_schema=False)
        async def missing() -> JSONResponse:
            return JSONResponse({"error": "this page needs pip install fastapi-offline; see /openapi.json"}, 404)

        return
    static = Path(package.origin).with_name("static")
    drawn = get_swagger_ui_html(
        openapi_url="openapi.json",
        title="equimos",
        swagger_js_url="docs/swagger-ui-bundle.js",
        swagger_css_url="docs/swagger-ui.css",
        swagger_favicon_url="data:,",
    ).body
    text = bytes(drawn).decode()
    policy = (
        f"default-src 'none'; script-src 'self' 'sha256-{_hash(text, 'script')}'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )

    @app.get("/docs", include_in_schema=False)
    async def documentation() -> HTMLResponse:
        return HTMLResponse(text, headers={"Content-Security-Policy": policy})

    @app.get("/docs/{name}", include_in_schema=False)
    async def asset(name: str) -> Response:
        if name not in ASSETS:
            return JSONResponse({"error": "Not Found"}, 404)
        return FileResponse(static / name, media_type=ASSETS[name])
