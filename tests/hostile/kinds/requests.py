"""HTTP requests: methods, paths, headers and bodies that no client should send, to a server in this process."""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

from starlette.testclient import TestClient

import continual
from continual.backbones.loading import load_backbone
from continual.serving.answering import ServingOptions
from continual.serving.app import make_app
from continual.serving.model import ModelInUse
from tests.hostile.corpus import Hostile, Materials
from tests.hostile.values import VALUES
from tests.support import malformed_requests as malformed

KEY = "secret"
METHODS = ["GET", "POST", "PUT", "DELETE", "HEAD", "OPTIONS", "PATCH", "TRACE", "BREW", "get"]
PATHS = [
    "/", "/predict", "/classes", "/health", "/metrics", "/docs", "/openapi.json", "/../../etc/passwd", "//predict",
    "/predict/", "/%2e%2e/%2e%2e/etc/passwd", "/predict%00", "/" + "x" * 5000, "/predict?" + "a=b&" * 3000,
    "/predict;a=b", "/?rate=nan", "/predict?false_alarm_rate=1e999", "/*",
    "/corrections", "/learn", "/undo", "/group", "/explain", "/group?" + "a=b&" * 3000, "/docs/swagger-ui.css",
]  # fmt: skip
#: routes that read images; `corrections.py` has those that keep them
UPLOADS = ["/predict", "/predict", "/group", "/explain"]
HEADERS = {
    "host": ["", "evil.example", "localhost:99999", "[::1", "localhost, evil", "x" * 9000, "\xff"],
    "origin": ["null", "http://evil.example", "file://", "http://127.0.0.1.evil.example", "\xff"],
    "content-type": ["", "multipart/form-data", "multipart/form-data; boundary=", "multipart/form-data; boundary=\xff",
                     "multipart/mixed; boundary=boundary", "text/plain", "x" * 9000,
                     "multipart/form-data; boundary=" + "b" * 9000],
    "content-length": ["-1", "0", "99999999999999999999", "1e3", "١"],
    "authorization": ["", "Bearer", f"Bearer {KEY}x", "Basic ÿ", "Bearer " + "x" * 9000, "Bearer \xff"],
    "x-api-key": ["", KEY.upper(), "x" * 9000, "\xff"],
    "transfer-encoding": ["chunked", "gzip, chunked", "x"],
    "expect": ["100-continue", "x"],
    "sec-fetch-site": ["cross-site", "x"],
    "range": ["bytes=0-", "bytes=-1,-2,-3"],
    "cookie": ["a=b; " * 1000],
    "x-forwarded-for": ["127.0.0.1", "x"],
}  # fmt: skip


def cases(draw: random.Random, materials: Materials) -> Iterator[Hostile]:
    """Yield requests to one server, which must answer each with a refusal in JSON, or as it should."""
    backbone = load_backbone(weights=materials.weights)
    in_use = ModelInUse(materials.models[0], lambda before: continual.load(materials.models[0], backbone))
    options = ServingOptions(api_key=KEY, hosts=("127.0.0.1",), reload_every=3600)
    with TestClient(make_app(in_use, options), "http://127.0.0.1", raise_server_exceptions=False) as client:
        uploads = malformed.requests(10**9, seed=draw.randrange(2**32))
        while True:
            for _ in range(2):
                kind, body, form = next(uploads)
                yield _case(client, kind, "POST", draw.choice(UPLOADS), {"content-type": form}, body)
            yield _case(client, "a header", *_headed(draw))
            yield _case(client, "a body", "POST", draw.choice(UPLOADS), {"content-type": malformed.TYPE}, _body(draw))
            yield _case(client, "a method and path", draw.choice(METHODS), draw.choice(PATHS), {}, b"")


def _headed(draw: random.Random) -> tuple[str, str, dict[str, str], bytes]:
    names = draw.sample(sorted(HEADERS), draw.choice([1, 2, 4]))
    headers = {name: draw.choice(HEADERS[name]) for name in names}
    whole = malformed.body(malformed.part(malformed.photo()))
    headers = {"content-type": malformed.TYPE, **headers}
    return draw.choice(["POST", "POST", "GET"]), draw.choice([*PATHS[:5], *UPLOADS]), headers, whole


def _body(draw: random.Random) -> bytes:
    """Return a multipart body with bytes changed, put in or taken out anywhere, or values as JSON."""
    if draw.random() < 0.2:
        return json.dumps(draw.choice(VALUES)).encode()
    content = bytearray(malformed.body(*[malformed.part(malformed.photo(), draw.randbytes(5))] * draw.choice([1, 3])))
    for _ in range(draw.choice([1, 5, 50])):
        place = draw.randrange(len(content))
        how = draw.randrange(3)
        if how == 0:
            content[place] = draw.randrange(256)
        elif how == 1:
            del content[place : place + draw.choice([1, 40])]
        else:
            content[place:place] = draw.choice([b"\r\n", b"--boundary", b"\0", b"\r\n\r\n", b'"', b"\xff" * 1000])
        content = content or bytearray(b"x")
    return bytes(content)


def wrong_with(
    client: TestClient, method: str, path: str, fields: list[tuple[bytes, bytes]], body: bytes
) -> str | None:
    """Send a request; say what is wrong with the answer: an error of the server, no reason, a secret."""
    try:
        found = client.request(method, path, headers=fields, content=body, follow_redirects=False)
    except (ValueError, UnicodeError) as error:
        return None if "httpx" in type(error).__module__ else f"raised {error!r}"
    if found.status_code >= 500 and found.status_code not in (503, 507):
        return f"answered {found.status_code} {found.text[:200]}"
    if found.status_code >= 400 and method != "HEAD" and "error" not in found.json():
        return f"refused with {found.text[:200]}"
    known = str(Path(tempfile.gettempdir())), "Traceback", "/continual/"
    return next((f"told of {word}" for word in known if word in found.text and path != "/"), None)


def _case(client: TestClient, kind: str, method: str, path: str, headers: dict[str, str], body: bytes) -> Hostile:
    given = {"authorization": f"Bearer {KEY}", **headers}
    fields = [(name.encode(), value.encode("latin-1", "replace")) for name, value in given.items()]

    def ask() -> str | None:
        return wrong_with(client, method, path, fields, body)

    return Hostile(f"{kind}: {method} {path[:40]} {list(headers.items())}"[:300], lambda folder: [ask])
