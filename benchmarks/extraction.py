"""How fast features of image files are read: strata's extraction beside timm's own forward, and how long it waits.

    python benchmarks/extraction.py --device cuda --out DIR

Files are JPEGs of noise, so that no data set is needed. "forward" is timm's own forward of prepared images, "features"
is what `strata` reads of them, "files" decodes, prepares and reads. Waiting is the share of the time of "files" in
which the network had nothing to do.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import timm
import torch
import typer
from arguments import Device, Out, Size
from measuring import interleaved, surroundings, table, write
from PIL import Image

from continual.backbones.loading import assemble
from continual.methods.strata import StrataLearner


def main(
    out: Out,
    model: Annotated[str, typer.Option(help="A timm ViT.")] = "vit_base_patch16_224.augreg_in21k",
    size: Size = 224,
    count: Annotated[int, typer.Option(help="Images.")] = 2048,
    batch: Annotated[int, typer.Option(help="Images in a forward pass.")] = 256,
    rounds: int = 3,
    workers: Annotated[int, typer.Option(help="Processes that decode and prepare files; 0: this one.")] = 0,
    device: Device = "cpu",
) -> None:
    """Measure, and write extraction.json and extraction.md."""
    args = {"img_size": size}
    network = timm.create_model(model, num_classes=0, **args)
    draw = np.random.RandomState(0)
    lines, record = [], {"ran on": surroundings(), "images": count, "batch": batch, "workers": workers, "rows": []}
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        files = [Path(folder) / f"{number}.jpg" for number in range(count)]
        for file in files:
            Image.fromarray(draw.randint(0, 256, (size, size, 3), dtype=np.uint8)).save(file, quality=90)
        for precision in ("float32", "bfloat16"):
            learner = StrataLearner(
                assemble(network, model, args), device=device, precision=precision, eval_batch_size=batch
            )
            learner.learn(torch.randn(8, 3, size, size), [0, 1] * 4)
            prepared = torch.randn(count, 3, size, size, device=device)

            def forward(learner: StrataLearner = learner, prepared: Any = prepared) -> None:
                with learner.extractor._autocast():
                    for part in prepared.split(batch):
                        learner.backbone.frozen.network(part)

            def features(learner: StrataLearner = learner, prepared: Any = prepared) -> None:
                for part in prepared.split(batch):
                    learner.score_batch(part)

            sides = {
                "forward": forward,
                "features": features,
                "files": lambda one=learner: one.predict(files, workers=workers),
            }
            taken = {name: statistics.median(times) for name, times in interleaved(sides, rounds).items()}
            waiting = max(0.0, 1 - taken["features"] / taken["files"])
            record["rows"].append({"precision": precision, "seconds": taken, "waiting": waiting})
            lines.append([precision, *(f"{count / taken[name]:.0f}" for name in sides), f"{waiting:.0%}"])
    headings = ["precision", "forward [images/s]", "features [images/s]", "files [images/s]", "waiting"]
    write(
        out,
        "extraction",
        record,
        f"{model}, {size} px, batch {batch}, {workers} processes that load.\n\n{table(headings, lines)}",
    )


if __name__ == "__main__":
    typer.run(main)
