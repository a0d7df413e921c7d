"""How long a new class takes on the page of `equimos serve`, how well unknown images are sorted; and screenshots.

    python benchmarks/page_loop.py IMAGES --weights FILE --out benchmarks/results/page_loop.json

IMAGES holds train/ and test/ with one folder per class. A `strata` model learns 20 of them, on a ViT-S/14 (11 blocks,
112 px) and on a tiny random ViT (2 blocks, 16 px); then three images of another class are named, learned and asked
about through HTTP, five times over, once with others than the page has answered and once with images that it has; the
clock is read, and the processor time of server and client together, which other programs lengthen less. How long
unknown images take to sort is measured on random features, in processor time. Each part is written when it is finished,
with what it took as a whole and the machine's load. Nothing is given up because it takes long: a busy machine makes the
answers late, and they are waited for. --before FILE keeps what an earlier version took, of which FILE is the record.
With --screenshots, playwright and a Chromium the page is photographed on a phone and on a desk.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import httpx
import numpy as np
import torch
import typer
import uvicorn
from measuring import seconds, surroundings
from sklearn.metrics import adjusted_rand_score

import continual
from continual.explaining.drawing import drawn
from continual.explaining.explain import prepared_for
from continual.serving.answering import ServingOptions
from continual.serving.model import ModelInUse
from continual.serving.server import config
from continual.testing import tiny_backbone
from continual.uncertainty.clusters import clustered

PATIENCE = 600.0  #: seconds that a request may take, here
LOOP = "a new class on the page"
VIT = {"img_size": 112, "depth": 11, "mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}


def of(folder: Path, part: str, name: str, count: int) -> list[Path]:
    """Return the first images of a class."""
    return sorted(path for path in (folder / part / name).rglob("*") if path.is_file())[:count]


def posted(client: httpx.Client, path: str, files: list[Path], **fields: str) -> dict[str, Any]:
    """Send images as the page does."""
    given = [("image", (file.name, file.read_bytes())) for file in files]
    return client.post(path, files=given, data=fields).raise_for_status().json()


def sorted_well(features: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Sort 4 to 6 images each of 2 to 4 of the classes (C, 6, D), and compare with the truth, 60 times."""
    draw, found, exact = np.random.default_rng(seed), [], []
    for _ in range(60):
        chosen = draw.choice(len(features), draw.integers(2, 5), replace=False)
        counts = [draw.integers(4, 7) for _ in chosen]
        truth = np.repeat(np.arange(len(chosen)), counts)
        groups = clustered(np.concatenate([features[c][:n] for c, n in zip(chosen, counts, strict=True)]))
        found.append(adjusted_rand_score(truth, groups))
        exact.append(len(set(groups)) == len(chosen))
    return {"adjusted Rand index": float(np.mean(found)), "right number of groups": float(np.mean(exact))}


def grouping(learner: Any, images: Path, names: list[str]) -> dict[str, float]:
    """Sort images of classes that the model does not know."""
    with torch.no_grad():
        rows = [torch.stack([_prepared(learner, file) for file in of(images, "test", name, 6)]) for name in names]
        features = torch.stack([learner.extractor.frozen_features(own) for own in rows])
    return sorted_well(features.numpy())


def _prepared(learner: Any, file: Path) -> torch.Tensor:
    return prepared_for(learner, file)


def photographed(address: str, files: list[Path], out: Path) -> None:
    """Photograph the page with answers, the question why, and a correction."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        browser = driver.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]
        )
        for name, width, height, dark in (("page_phone", 390, 844, True), ("page_desk", 1100, 760, False)):
            page = browser.new_page(
                viewport={"width": width, "height": height}, color_scheme="dark" if dark else "light"
            )
            page.goto(address)
            page.set_input_files("#file", [str(file) for file in files])
            page.wait_for_selector(f".answer >> nth={len(files) - 1}")
            page.click("text=Why? >> nth=0")
            page.wait_for_selector(".why canvas")
            page.click("text=Wrong, it is … >> nth=0")
            page.screenshot(path=str(out / f"{name}.png"))
        browser.close()


def sorting_times(counts: tuple[int, ...] = (32, 100, 300, 1000), seed: int = 0) -> dict[str, float]:
    """Return the seconds of sorting so many images of eight kinds, of 384 features each."""
    draw, found = np.random.default_rng(seed), {}
    for count in counts:
        features = draw.normal(size=(8, 384))[draw.integers(8, size=count)] + draw.normal(size=(count, 384))
        clustered(features[:8])  # what is loaded at first use
        found[str(count)] = round(seconds(lambda features=features: clustered(features)), 3)
    return found


def loop_times(
    learner: Any,
    images: Path,
    names: list[str],
    words: dict[str, Any],
    screenshots: Path | None = None,
    *,
    answered: bool = False,
) -> dict[str, Any]:
    """Name, learn and ask about a class of three images through HTTP, five times: seconds of each, and how well.

    With `answered` the three were asked about before, as on the page; that is not counted.
    """
    steps: dict[str, list[float]] = {"stored": [], "learned": [], "answered": []}
    took: dict[str, list[float]] = {"seconds": [], "processor seconds": []}
    right: list[float] = []
    with TemporaryDirectory() as folder, served(learner, Path(folder), timeout=PATIENCE) as address:
        with httpx.Client(base_url=address, timeout=PATIENCE, trust_env=False) as client:
            for name in names[20:25]:
                three, one = of(images, "train", name, 3), of(images, "test", name, 1)
                if answered:
                    posted(client, "/predict", three)
                started, busy = time.perf_counter(), time.process_time()
                own = {"class": _word(words, name)}
                steps["stored"].append(_took(lambda own=own, files=three: posted(client, "/corrections", files, **own)))
                steps["learned"].append(_took(lambda: client.post("/learn").raise_for_status()))
                steps["answered"].append(_took(lambda files=one: posted(client, "/predict", files)))
                took["seconds"].append(round(time.perf_counter() - started, 2))
                took["processor seconds"].append(round(time.process_time() - busy, 2))
                answers = posted(client, "/predict", of(images, "test", name, 10))["answers"]
                right.append(np.mean([answer["answer"] == _word(words, name) for answer in answers]))
        if screenshots is not None:
            files = [of(images, "test", name, 1)[0] for name in (names[3], names[40], names[21])]
            photographed(address, files, screenshots)
            drawn(continual.explain(learner, files[0])).save(screenshots / "explain.png")
    return {**took, "of which": steps, "right of ten, three images learned": float(np.mean(right))}


def _took(call: Callable[[], Any]) -> float:
    """Return the seconds of a call by the clock."""
    started = time.perf_counter()
    call()
    return round(time.perf_counter() - started, 2)


@contextmanager
def served(learner: Any, folder: Path, **options: Any) -> Iterator[str]:
    """Serve a learner with --learn and other options; give the address."""
    model = folder / "model.safetensors"
    learner.save(model)
    in_use = ModelInUse(model, lambda before: continual.load(model, learner.backbone))
    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(config(in_use, ServingOptions(collect=folder / "named", learn=True, **options)))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()


def main(
    images: Path,
    weights: Annotated[Path, typer.Option()],
    out: Annotated[Path | None, typer.Option()] = None,
    screenshots: Annotated[Path | None, typer.Option()] = None,
    before: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """Measure, and print each part when it is finished."""
    names = sorted(path.name for path in (images / "train").iterdir())
    words = json.loads(next(images.glob("class_names.json"), Path("/dev/null")).read_text() or "{}")
    known = [(file, _word(words, name)) for name in names[:20] for file in of(images, "train", name, 20)]
    result: dict[str, Any] = {"surroundings": surroundings(), "seed": 0, "parts": {}}
    if before is not None:
        earlier = json.loads(before.read_text(encoding="utf-8"))["parts"]
        result["before"] = {title: found for title, found in earlier.items() if LOOP in title}

    def part(title: str, call: Callable[[], dict[str, Any]]) -> None:
        started = time.perf_counter()
        found = call()
        took = round(time.perf_counter() - started, 1)
        result["parts"][title] = {**found, "whole part [s]": took, "load": round(os.getloadavg()[0], 1)}
        text = json.dumps(result, indent=1)
        print(title, json.dumps(result["parts"][title]), flush=True)
        if out is not None:
            out.write_text(text + "\n", encoding="utf-8")

    part("sorting random features", lambda: {"processor seconds": sorting_times()})
    for name, backbone in (
        ("ViT-S/14", continual.load_backbone("vit_small_patch14_dinov2", weights=weights, **VIT)),
        ("tiny ViT", tiny_backbone()),
    ):
        learner = continual.StrataLearner(backbone)

        def taught(learner: Any = learner) -> dict[str, Any]:
            learner.learn([file for file, _ in known], [label for _, label in known])
            return {"images": len(known), "D'": len(learner.state.sums.total)}

        part(f"{name}: learning 20 classes", taught)
        if name == "ViT-S/14":
            part(f"{name}: sorting images", lambda learner=learner: grouping(learner, images, names[20:46]))
        shots = screenshots if name == "ViT-S/14" else None
        part(
            f"{name}: {LOOP}",
            lambda learner=learner, shots=shots: loop_times(learner, images, names, words, shots),
        )
        part(
            f"{name}: {LOOP}, its images answered before",
            lambda learner=learner: loop_times(learner, images, names, words, answered=True),
        )


def _word(words: dict[str, Any], name: str) -> str:
    return str(words.get(name, name)).split(",")[0]


if __name__ == "__main__":
    typer.run(main)
