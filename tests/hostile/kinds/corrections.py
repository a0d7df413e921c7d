"""Sessions with a server that collects and learns: names that are no folders, uploads that are no images, in any order.

Each session has a server and a folder of its own: what is stored beside them is found.
"""

from __future__ import annotations

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

from starlette.testclient import TestClient

import continual
from continual.backbones.loading import Backbone, load_backbone
from continual.serving.answering import ServingOptions
from continual.serving.app import make_app
from continual.serving.collected import DISCARDED
from continual.serving.model import ModelInUse
from tests.hostile.corpus import Hostile, Materials
from tests.hostile.kinds.requests import wrong_with
from tests.support import malformed_requests as malformed

#: what a class may be called by somebody who means harm, or knows no better
NAMES = [
    "nut", "rose", "ROSE", "", " ", ".", "..", "../up", "a/b", "a\\b", "/etc", "C:\\x", "CON", "nul.txt", ".hidden",
    "-rf", "x" * 200, "x" * 201, "é" * 150, "\0", "a\nb", "\x1b[2J", "\u202etxt", "<b>x</b>", "7", "-1", "1e9", "nut ",
    "a:b", "%2e%2e%2f", "rose\u0301", "9" * 40,
]  # fmt: skip
ROUTES = [("POST", "/learn"), ("POST", "/undo"), ("DELETE", "/corrections"), ("GET", "/corrections")]
STEPS = 6


def cases(draw: random.Random, materials: Materials) -> Iterator[Hostile]:
    """Yield sessions of a few requests each."""
    backbone = load_backbone(weights=materials.weights)
    uploads = malformed.requests(10**9, seed=draw.randrange(2**32))
    model = next(path for path in materials.models if path.stem == "strata")
    while True:
        steps = [_step(draw, uploads) for _ in range(STEPS)]
        yield _session(steps, model, backbone)


Step = tuple[str, str, str, bytes]  #: method, path, content type, body


def _step(draw: random.Random, uploads: Iterator[malformed.Request]) -> Step:
    what = draw.random()
    if what < 0.3:
        method, path = draw.choice(ROUTES)
        return method, path, malformed.TYPE, draw.choice([b"", b"", malformed.body(malformed.part(malformed.photo()))])
    path = draw.choice(["/corrections", "/corrections", "/group", "/explain"])
    if what < 0.5:
        _, body, form = next(uploads)
        return "POST", path, form, _field("nut") + body
    names = [_field(draw.choice(NAMES)) for _ in range(draw.choice([0, 1, 1, 1, 2]))]
    photos = [malformed.encoded(draw, "PNG", 16) for _ in range(draw.choice([1, 1, 2, 5]))]
    files = [malformed.part(photo, draw.choice(NAMES).encode()) for photo in photos]
    return "POST", path, malformed.TYPE, malformed.body(*draw.sample([*names, *files], len(names) + len(files)))


def _field(name: str) -> bytes:
    return b'--boundary\r\nContent-Disposition: form-data; name="class"\r\n\r\n' + name.encode() + b"\r\n"


def _session(steps: list[Step], model: Path, backbone: Backbone) -> Hostile:
    def make(folder: Path) -> list[object]:
        own, named = folder / "model.safetensors", folder / "named"
        shutil.copy(model, own)

        def talk() -> str | None:
            in_use = ModelInUse(own, lambda before: continual.load(own, backbone))
            options = ServingOptions(hosts=("127.0.0.1",), reload_every=3600, collect=named, learn=True)
            app = make_app(in_use, options)
            with TestClient(app, "http://127.0.0.1", raise_server_exceptions=False) as client:
                for method, path, form, body in steps:
                    fields = [(b"content-type", form.encode("latin-1", "replace"))]
                    if problem := wrong_with(client, method, path, fields, body):
                        return f"{method} {path} {body[:200]!r}: {problem}"
            continual.load(own, backbone)
            return _astray(folder)

        return [talk]

    return Hostile(", ".join(f"{method} {path}" for method, path, *_ in steps), make)  # type: ignore[arg-type]


def _astray(folder: Path) -> str | None:
    """Say what lies elsewhere than in a folder of a class: one below the collection's, or below the discarded ones'."""
    for path in folder.rglob("*"):
        place = path.relative_to(folder).parts
        if path.is_file() and place[0] == "named" and len(place) != 3 + (place[1] == DISCARDED):
            return f"stored {path.relative_to(folder)}"
        if place[0] not in ("named", "model.safetensors") and not place[0].startswith("model.safetensors."):
            return f"made {path.relative_to(folder)}"
    return None
