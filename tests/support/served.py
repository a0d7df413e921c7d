"""A real server on loopback, in a thread, with a tiny model."""

from __future__ import annotations

import io
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import httpx
import torch
import uvicorn
from PIL import Image

from continual.learning.learner import IncrementalLearner
from continual.lifecycle import versions
from continual.lifecycle.new_images import Picture, entry
from continual.lifecycle.seen_images import SeenImages
from continual.lifecycle.thumbnails import Thumbnails
from continual.methods import load
from continual.methods.mos.learner import MOSLearner
from continual.serving.answering import ServingOptions
from continual.serving.model import ModelInUse
from continual.serving.server import config
from continual.testing import coloured_squares, tiny_backbone

L = TypeVar("L", bound=IncrementalLearner[Any])
BACKBONE = tiny_backbone()


def learner_of(*experiences: list[int]) -> MOSLearner:
    """A MOS learner of classes "class 0", …"""
    return taught(MOSLearner(BACKBONE, epochs=1, bottleneck=4, alignment_epochs=1), *experiences)


def taught(learner: L, *experiences: list[int]) -> L:
    """The learner, once it knows classes "class 0", …"""
    torch.set_num_threads(1)
    for classes in experiences:
        images, labels = coloured_squares(classes, 4)
        learner.learn(images, [f"class {label}" for label in labels])
    return learner


@contextmanager
def serving(model: Path, **options: Any) -> Iterator[tuple[httpx.Client, ModelInUse]]:
    """Serve a model file; give a client of it, and the model in use."""
    in_use = ModelInUse(model, lambda before: load(model, BACKBONE))
    listening = socket.create_server(("127.0.0.1", 0), backlog=2048)
    server = uvicorn.Server(config(in_use, ServingOptions(**options)))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    while not server.started:
        assert thread.is_alive()
        time.sleep(0.01)
    address = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
            yield client, in_use
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


def kept_thumbnails(learner: IncrementalLearner[Any], model: Path, *kinds: int) -> None:
    """Save a learner with thumbnails of an image of each kind, whose files are put beside the model."""
    pictures = []
    for kind in kinds:
        path = model.with_name(f"{kind}.png")
        path.write_bytes(photos(kind, 1)[0])
        pictures.append(Picture(path, entry(path, f"class {kind}", SeenImages())))
    seen, small = SeenImages(tuple(picture.entry for picture in pictures)), Thumbnails.of(learner, pictures)
    versions.save(learner, model, "learned", embed_backbone=False, seen=seen, thumbnails=small)


def photos(kind: int, count: int = 3, seed: int = 100) -> list[bytes]:
    found = []
    for image in coloured_squares([kind], count, seed=seed)[0]:
        file = io.BytesIO()
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "PNG")
        found.append(file.getvalue())
    return found


def post(client: httpx.Client, path: str, images: list[bytes], **data: Any) -> httpx.Response:
    files = [("image", (f"{n}.png", image)) for n, image in enumerate(images)]
    return client.post(path, files=files, data=data)


def refused(response: httpx.Response, status: int, *words: str) -> None:
    assert response.status_code == status, response.text
    for word in words:
        assert word in response.json()["error"]
