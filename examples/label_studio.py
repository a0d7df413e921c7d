"""A machine-learning backend for Label Studio: it suggests classes, and learns from what people annotate.

    pip install "equimos[serve]"
    EQUIMOS_MODEL=parts.safetensors python examples/label_studio.py        # at http://127.0.0.1:9090

In Label Studio, connect http://HOST:9090 under Settings, Model, with a labelling config such as

    <View><Image name="image" value="$image"/><Choices name="choice" toName="image" choice="single"/></View>

`POST /predict` answers tasks, `POST /webhook` learns an annotation that was made (a new class as well) and saves the
model as a new version; `equimos rollback` undoes it. Images are read from `data:` URLs, and from local files below
EQUIMOS_IMAGES; others are fetched from the Label Studio server named by LABEL_STUDIO_URL alone, with
LABEL_STUDIO_API_KEY.
"""

from __future__ import annotations

import base64
import io
import os
import threading
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urljoin, urlsplit
from urllib.request import Request, urlopen

from fastapi import FastAPI, HTTPException
from PIL import Image

import continual
from continual.lifecycle import contents, versions

MOST_BYTES = 20 * 2**20


def make_app(model: Path, learner: Any | None = None) -> FastAPI:
    """Return the backend of a model file as an ASGI application."""
    app, lock = FastAPI(title="equimos for Label Studio"), threading.Lock()
    state = {"learner": learner or continual.load(model)}

    @app.get("/health")
    def health() -> dict[str, Any]:
        return {"status": "UP", "model_class": "equimos"}

    @app.post("/setup")
    def setup(project: dict[str, Any]) -> dict[str, Any]:
        return {"model_version": f"{model.name} {state['learner'].state.updates}"}

    @app.post("/predict")
    def predict(request: dict[str, Any]) -> dict[str, Any]:
        tasks, current = request.get("tasks", []), state["learner"]
        images = [image_of(task) for task in tasks]
        if not images:
            return {"results": []}
        found = current.predict(images)
        sure = found.scores if found.probabilities is None else found.probabilities
        best = found.scores.argmax(1)
        return {
            "results": [
                {
                    "model_version": str(current.state.updates),
                    "score": float(sure[row, best[row]]),
                    "result": [choice(str(label), float(sure[row, best[row]]))],
                }
                for row, label in enumerate(found.labels)
            ]
        }

    @app.post("/webhook")
    def webhook(event: dict[str, Any]) -> dict[str, Any]:
        if event.get("action") not in ("ANNOTATION_CREATED", "ANNOTATION_UPDATED"):
            return {"learned": None}
        label = annotated(event["annotation"])
        if label is None:
            return {"learned": None}
        image = image_of(event["task"])
        with lock:
            found, changed = contents.read(model), state["learner"].variant()
            known = {str(name): name for name in changed.classes}
            if label in known:
                changed.correct([image], known[label])
            else:
                changed.learn([image], [label])
            event_ = f"annotated {label} in Label Studio"
            kept: Any = {"seen": found.seen, "held_out": found.held_out, "thumbnails": found.thumbnails}
            versions.save(changed, model, event_, embed_backbone=found.embedded, **kept)
            state["learner"] = changed
        return {"learned": label, "classes": len(changed.classes)}

    return app


def choice(label: str, score: float) -> dict[str, Any]:
    """Return a class as Label Studio shows it."""
    return {
        "from_name": "choice",
        "to_name": "image",
        "type": "choices",
        "value": {"choices": [label]},
        "score": score,
    }


def annotated(annotation: dict[str, Any]) -> str | None:
    """Return the class that a person has chosen, None if there is none, or several."""
    named = [name for row in annotation.get("result", []) for name in row.get("value", {}).get("choices", [])]
    return named[0] if len(named) == 1 else None


def image_of(task: dict[str, Any]) -> Image.Image:
    """Return the picture of a task; refuses what lies elsewhere than it may be read from."""
    place = str(task.get("data", {}).get("image", ""))
    if place.startswith("data:image/"):
        data = base64.b64decode(place.partition(",")[2])
    elif place.startswith("/data/local-files/") and "EQUIMOS_IMAGES" in os.environ:
        root = Path(os.environ["EQUIMOS_IMAGES"]).resolve()
        path = (root / unquote(urlsplit(place).query.partition("d=")[2])).resolve()
        if not path.is_relative_to(root) or not path.is_file():
            raise HTTPException(404, "no image there")
        data = path.read_bytes()
    elif server := os.environ.get("LABEL_STUDIO_URL"):
        url = urljoin(server, place)
        if urlsplit(url)[:2] != urlsplit(server)[:2]:
            raise HTTPException(403, "images are fetched from Label Studio alone")
        token = {"Authorization": f"Token {os.environ.get('LABEL_STUDIO_API_KEY', '')}"}
        with urlopen(Request(url, headers=token), timeout=30) as answer:
            data = answer.read(MOST_BYTES + 1)
    else:
        raise HTTPException(400, "set EQUIMOS_IMAGES or LABEL_STUDIO_URL: where images may be read from")
    if len(data) > MOST_BYTES:
        raise HTTPException(413, f"an image may have {MOST_BYTES} bytes")
    try:
        return Image.open(io.BytesIO(data)).convert("RGB")
    except (OSError, ValueError) as error:
        raise HTTPException(422, "that is no image") from error


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(make_app(Path(os.environ["EQUIMOS_MODEL"])), host="127.0.0.1", port=9090)
