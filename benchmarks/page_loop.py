"""How long a new class takes on the page of `equimos serve`, how well unknown images are sorted; and screenshots.

    python benchmarks/page_loop.py IMAGES --weights FILE --screenshots docs/images

IMAGES holds train/ and test/ with one folder per class. A `strata` model of ViT-S/14 (11 blocks, 112 px) learns 20 of
them; then three images of another class are named, learned and asked about through HTTP, five times over. With
playwright and a Chromium the page is photographed on a phone and on a desk.
"""

from __future__ import annotations

import json
import shutil
import socket
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import httpx
import numpy as np
import torch
import typer
import uvicorn
from sklearn.metrics import adjusted_rand_score

import continual
from continual.explaining.drawing import drawn
from continual.explaining.explain import prepared_for
from continual.serving.answering import ServingOptions
from continual.serving.model import ModelInUse
from continual.serving.server import config
from continual.uncertainty.clusters import clustered

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


def main(
    images: Path,
    weights: Annotated[Path, typer.Option()],
    screenshots: Annotated[Path | None, typer.Option()] = None,
) -> None:
    """Measure, and print JSON."""
    torch.set_num_threads(2)
    backbone = continual.load_backbone("vit_small_patch14_dinov2", weights=weights, **VIT)
    names = sorted(path.name for path in (images / "train").iterdir())
    words = json.loads(next(images.glob("class_names.json"), Path("/dev/null")).read_text() or "{}")
    learner = continual.StrataLearner(backbone)
    known = [(file, _word(words, name)) for name in names[:20] for file in of(images, "train", name, 20)]
    learner.learn([file for file, _ in known], [name for _, name in known])
    result: dict[str, Any] = {"D'": len(learner.state.sums.total), **grouping(learner, images, names[20:46])}
    with TemporaryDirectory() as folder:
        model = Path(folder) / "model.safetensors"
        learner.save(model)
        in_use = ModelInUse(model, lambda before: continual.load(model, backbone))
        listening = socket.create_server(("127.0.0.1", 0))
        options = ServingOptions(collect=Path(folder) / "named", learn=True)
        server = uvicorn.Server(config(in_use, options))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        while not server.started:
            time.sleep(0.01)
        address, took, right = f"http://127.0.0.1:{listening.getsockname()[1]}", [], []
        with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
            for name in names[20:25]:
                began = time.perf_counter()
                posted(client, "/corrections", of(images, "train", name, 3), **{"class": _word(words, name)})
                client.post("/learn").raise_for_status()
                answers = posted(client, "/predict", of(images, "test", name, 1))
                took.append(time.perf_counter() - began)
                answers = posted(client, "/predict", of(images, "test", name, 10))["answers"]
                right.append(np.mean([answer["answer"] == _word(words, name) for answer in answers]))
        result |= {"seconds": [round(t, 2) for t in took], "right of ten, three images learned": float(np.mean(right))}
        print(json.dumps(result, indent=1), flush=True)
        if screenshots is not None:
            files = [of(images, "test", name, 1)[0] for name in (names[3], names[40], names[21])]
            photographed(address, files, screenshots)
            drawn(continual.explain(learner, files[0])).save(screenshots / "explain.png")
        server.should_exit = True
        thread.join()


def _word(words: dict[str, Any], name: str) -> str:
    return str(words.get(name, name)).split(",")[0]


if __name__ == "__main__":
    typer.run(main)
