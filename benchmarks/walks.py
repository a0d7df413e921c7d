"""Two people's first day, step by step: how long each command takes from an empty folder, PyTorch's loading included.

    python benchmarks/walks.py TINY PLANKTON --weights FILE --out benchmarks/results/walks.json

TINY is Tiny-ImageNet with train/, test/ and class_names.json, PLANKTON one folder per class; the weights are of a
ViT-S/14. An engineer learns photos of five classes, a sixth later, corrects, undoes, exports, serves and asks; a
scientist asks which group plankton has, learns with it, and asks about rotated and unknown images. Nothing is random
but the learners' seed, their default. Each step is written when it is finished, with the machine's load. Every step
runs with the Python that this runs with: install ".[serve,export]" in a fresh environment, and call it from elsewhere.
"""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any

import httpx
import typer
from measuring import surroundings
from PIL import Image

PHOTOS, LATER = ("basketball", "goose", "lion", "orange", "snail"), "koala"
PLANKTON = 4  #: classes that are learned; images of the next two are unknown


@dataclass
class Walk:
    """Runs steps in a folder and writes down how long they took."""

    folder: Path
    weights: Path
    out: Path
    about: dict[str, Any] = field(default_factory=lambda: {"surroundings": surroundings(), "steps": []})

    def step(self, title: str, *words: str, program: str = "equimos") -> str:
        """Run a command; return what it says. Raises CalledProcessError where it fails."""
        given = [str(self.weights) if word == "WEIGHTS" else word for word in words]
        start = [sys.executable, "-m", "continual"] if program == "equimos" else [sys.executable]
        began = time.perf_counter()
        done = subprocess.run([*start, *given], cwd=self.folder, check=True, capture_output=True, text=True)
        self.write(title, " ".join([program, *words]), time.perf_counter() - began, done.stdout + done.stderr)
        return done.stdout

    def write(self, title: str, command: str, seconds: float, said: str) -> None:
        """Add a step to the record."""
        row = {"step": title, "command": command, "seconds": round(seconds, 1), "load": round(os.getloadavg()[0], 1)}
        self.about["steps"].append(row)
        self.out.write_text(json.dumps(self.about, indent=1) + "\n", encoding="utf-8")
        print(json.dumps(row), *said.strip().splitlines()[-12:], sep="\n", flush=True)


def copied(images: Path, to: Path, first: int, count: int) -> None:
    """Copy some images of a folder, in the order of their names."""
    to.mkdir(parents=True, exist_ok=True)
    files = sorted(path for path in images.rglob("*") if path.is_file())
    for path in files[first : first + count]:
        shutil.copy(path, to)


def engineer(walk: Walk, tiny: Path) -> None:
    """Photos of five classes, and what comes after."""
    words = json.loads((tiny / "class_names.json").read_text(encoding="utf-8"))
    names = {name.split(",")[0].strip().lower(): key for key, name in words.items()}
    for name in (*PHOTOS, LATER):
        copied(tiny / "train" / names[name], walk.folder / ("photos" if name in PHOTOS else "later") / name, 0, 20)
        copied(tiny / "test" / names[name], walk.folder / "new" / name, 0, 5)
    model = ("--model", "animals.safetensors", "--weights", "WEIGHTS")
    size = ("--model-arg", "img_size=112")
    walk.step("plan", "learn", "--images", "photos", *model, *size, "--dry-run")
    walk.step("learn 5 classes of 20 photos", "learn", "--images", "photos", *model, *size, "--yes")
    walk.step("predict 30 photos", "predict", *model, "new")
    shutil.move(walk.folder / "later" / LATER, walk.folder / "photos" / LATER)
    walk.step("learn a sixth class", "learn", "--images", "photos", *model, "--yes")
    walk.step("predict again", "predict", *model, "new", "--csv", "answers.csv")
    with (walk.folder / "answers.csv").open(encoding="utf-8") as file:
        rows = [(row["file"], Path(row["file"]).parent.name, row["answer"]) for row in csv.DictReader(file)]
    path, name, _ = next((row for row in rows if row[1] != row[2]), rows[0])
    walk.step("correct an answer", "correct", *model, path, "--class", name)
    walk.step("undo that", "rollback", *model)
    walk.step("export to ONNX, compared on 6 photos", "export", *model, "--onnx", "edge", "--images", "photos/koala")
    photos = [row[0] for row in rows]
    walk.step("answer 30 photos by onnxruntime", "edge/onnx_runner.py", "edge/animals.onnx", *photos, program="python")
    ask(walk, [*model, "--port", "0"], walk.folder / path)


def ask(walk: Walk, words: list[str], image: Path) -> None:
    """Start a server, ask it about an image, and end it."""
    given = [str(walk.weights) if word == "WEIGHTS" else word for word in words]
    began, said = time.perf_counter(), ""
    start = [sys.executable, "-m", "continual", "serve", *given]
    with subprocess.Popen(start, cwd=walk.folder, stderr=subprocess.PIPE, text=True) as server:
        assert server.stderr is not None
        while " at http://" not in said:
            said = server.stderr.readline()
        walk.write("serve, until it listens", " ".join(["equimos", "serve", *words]), time.perf_counter() - began, "")
        address, began = said.split(" at ")[1].split()[0], time.perf_counter()
        posted = httpx.post(f"{address}/predict", files={"image": image.read_bytes()}, timeout=120, trust_env=False)
        walk.write("ask over HTTP", "curl -F image=@PHOTO …/predict", time.perf_counter() - began, posted.text)
        server.terminate()


def scientist(walk: Walk, plankton: Path) -> None:
    """Images with no up."""
    classes = sorted(path for path in plankton.iterdir() if path.is_dir())
    for number, place in enumerate(classes[: PLANKTON + 2]):
        if number < PLANKTON:
            copied(place, walk.folder / "plankton" / place.name, 0, 15)
            copied(place, walk.folder / "test" / place.name, 40, 10)
        else:
            copied(place, walk.folder / "unknown", 0, 10)
    (walk.folder / "rotated").mkdir()
    with Image.open(next((walk.folder / "test").rglob("*.jpg"))) as image:
        for turn in range(4):
            image.rotate(90 * turn, expand=True).save(walk.folder / "rotated" / f"{90 * turn}.png")
    weights, size = ("--weights", "WEIGHTS"), ("--model-arg", "img_size=98")
    model, alarms = ("--model", "plankton.safetensors", *weights), ("--false-alarm-rate", "0.05")
    walk.step("which group, by 60 images", "equivariance", "advise", "plankton", *weights, *size)
    learned = ("learn", "--images", "plankton", *model, *size, "--symmetry", "auto", "--yes")
    walk.step("learn 4 classes, --symmetry auto", *learned)
    walk.step("predict one image in four directions", "predict", *model, "rotated")
    walk.step("predict 40 images of known classes", "predict", *model, "test", *alarms)
    walk.step("predict 20 images of unknown classes", "predict", *model, "unknown", *alarms)


def main(
    tiny: Path,
    plankton: Path,
    weights: Annotated[Path, typer.Option()],
    out: Annotated[Path, typer.Option()] = Path("walks.json"),
) -> None:
    """Walk, and write each step when it is finished."""
    with TemporaryDirectory() as one, TemporaryDirectory() as other:
        walk = Walk(Path(one), weights.absolute(), out)
        engineer(walk, tiny)
        walk.folder = Path(other)
        scientist(walk, plankton)


if __name__ == "__main__":
    typer.run(main)
