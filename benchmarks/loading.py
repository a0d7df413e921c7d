"""What it saves to decode image files once: an epoch of loading, and the share of a training that waits for images.

    OMP_NUM_THREADS=1 python benchmarks/loading.py --images DIR --weights FILE --out DIR

Takes the first training images of DIR (train/CLASS/FILE) as they are, and enlarged to photos of 500 x 500 pixels.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from arguments import Images, Out, Weights
from measuring import interleaved, surroundings, table, write
from PIL import Image
from real_streams import backbone_of

from continual.data.images import LIMIT, list_folder
from continual.data.inputs import as_experience
from continual.data.loaders import training_loader
from continual.methods.mos.learner import MOSLearner


def main(
    images: Images,
    weights: Weights,
    out: Out,
    count: Annotated[int, typer.Option(help="Images of an experience.")] = 96,
    rounds: int = 3,
) -> None:
    """Measure, and write loading.json and loading.md."""
    torch.set_num_threads(1)
    backbone = backbone_of(weights)
    paths, labels = list_folder(images / "train")
    step = len(paths) // count
    paths, labels = paths[::step][:count], labels[::step][:count]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        photos = [Path(folder) / f"{number}.jpg" for number in range(count)]
        for path, photo in zip(paths, photos, strict=True):
            Image.open(path).convert("RGB").resize((500, 500)).save(photo, quality=90)
        for what, files in (("as they are", paths), ("500 x 500", photos)):
            epochs = {}
            for name, limit in (("anew", 0), ("once", LIMIT)):
                data = as_experience(files, labels, backbone.preprocessing, decoded=limit)
                loader, _ = training_loader(data.training, 16, 1993, 0)
                epochs[name] = lambda loader=loader: list(loader)
            taken = interleaved(epochs, rounds)
            row: dict[str, Any] = {"images": what}
            for name, limit in (("anew", 0), ("once", LIMIT)):
                row[f"{name} [ms an image]"] = 1e3 * statistics.median(taken[name]) / count
                waited: list[float] = []
                learner = MOSLearner(backbone, epochs=2, batch_size=16, precision="bfloat16")

                def note(stage: str, done: int, total: int, figures: dict[str, float], waited: Any = waited) -> None:
                    waited += [figures["waiting"]] if stage == "training" else []

                learner.learn(files, labels, progress=note, decoded=limit)
                row[f"{name}, waiting"] = waited[-1]
            rows.append(row)
    lines = [
        [row["images"], *(f"{row[f'{name} [ms an image]']:.1f}" for name in ("anew", "once")),
         *(f"{row[f'{name}, waiting']:.0%}" for name in ("anew", "once"))]
        for row in rows
    ]  # fmt: skip
    headings = ["images", "decoded again [ms]", "decoded once [ms]", "waiting, again", "waiting, once"]
    write(out, "loading", {"ran on": surroundings(), "count": count, "rows": rows}, table(headings, lines))


if __name__ == "__main__":
    typer.run(main)
