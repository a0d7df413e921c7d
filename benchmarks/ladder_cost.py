"""What ladders cost beside bottlenecks in MOS: answers after so many experiences, training, and its memory.

    OMP_NUM_THREADS=1 python benchmarks/ladder_cost.py --weights FILE --out DIR

Adapters and images are random, so only the cost is real, and images wander between adapters more than learned ones
let them. An answer is measured in the library's own pass of the frozen ViT; training is that of one experience at the
method's default settings, cached views included, without the alignment of the head, which both have. All sides
alternate in one process; on a CPU times are processor time.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import torch
import typer
from adapter_kinds import memory
from arguments import Device, Out, Size, Weights
from measuring import interleaved, ratio, surroundings, table, write
from mos_inference_random import with_random_adapters
from real_streams import backbone_of
from torch import Tensor

from continual.backbones.loading import Backbone
from continual.methods.mos.learner import MOSLearner

Args = Mapping[str, Mapping[str, Any]]

#: kinds, and settings of their own
KINDS: Args = {"bottleneck": {}, "ladder": {}}


def answers(
    backbone: Backbone, images: Tensor, experiences: int, rounds: int, kinds: Args = KINDS, **settings: Any
) -> dict[str, float]:
    """Return how many of the library's own passes an answer of each kind takes."""
    learners = {
        kind: with_random_adapters(MOSLearner(backbone, adapter=kind, adapter_args=own, **settings), experiences)
        for kind, own in kinds.items()
    }
    extractor = next(iter(learners.values())).extractor
    sides: dict[str, Any] = {
        kind: lambda learner=learner: learner.score_batch(images) for kind, learner in learners.items()
    }
    with torch.no_grad():
        taken = interleaved({"own pass": lambda: extractor.features(images), **sides}, rounds)
        counts = {f"{kind}s tried": tried(learner, images) for kind, learner in learners.items()}
    return {kind: ratio(taken, kind, "own pass") for kind in kinds} | counts


def tried(learner: MOSLearner, images: Tensor) -> float:
    """Return how many adapters an image was run with, in the mean, the first one's prototypes aside."""
    refined = learner.score_batch(images).refinements
    assert refined is not None
    return float(1 + refined.float().mean())


def training(
    backbone: Backbone, images: Tensor, epochs: int, rounds: int, kinds: Args = KINDS, **settings: Any
) -> dict[str, Any]:
    """Return processor seconds of learning one experience with each kind, and what a step of it keeps."""
    labels = [index % 5 for index in range(len(images))]

    def learner(kind: str) -> MOSLearner:
        own = dict(kinds[kind])
        return MOSLearner(backbone, adapter=kind, adapter_args=own, epochs=epochs, alignment_epochs=0, **settings)

    taken = interleaved({kind: lambda kind=kind: learner(kind).learn(images, labels) for kind in kinds}, rounds)  # type: ignore[misc]
    held = {kind: memory(learner(kind), images, labels) for kind in kinds}
    whole = {kind: held[kind]["peak"] + held[kind]["views"] for kind in kinds}
    return {
        "epochs": epochs,
        "images": len(images),
        "bottleneck in ladders' time": ratio(taken, "bottleneck", "ladder"),
        "kept for gradients": held["ladder"]["kept"] / held["bottleneck"]["kept"],
        "peak of a step": held["ladder"]["peak"] / held["bottleneck"]["peak"],
        "peak with cached views": whole["ladder"] / whole["bottleneck"],
        "bytes": held,
    }


def main(
    weights: Weights,
    out: Out,
    size: Size = 98,
    device: Device = "cpu",
    precision: Annotated[str, typer.Option(help="float32 or bfloat16.")] = "float32",
    batch: Annotated[int, typer.Option(help="Images that are asked about.")] = 32,
    number: Annotated[int, typer.Option(help="Images of the experience that is learned.")] = 96,
    rounds: int = 5,
    experiences: Annotated[list[int], typer.Option(help="How many were learned.")] = [5, 20, 50, 200],  # noqa: B006
    epochs: Annotated[list[int], typer.Option(help="Of training.")] = [5, 20],  # noqa: B006
) -> None:
    """Measure what ladder_cost.json does not hold yet, and write it and ladder_cost.md."""
    torch.set_num_threads(1)
    backbone = backbone_of(weights, size)
    draw = torch.Generator().manual_seed(1)
    images = torch.randn(max(batch, number), 3, size, size, generator=draw).to(device)
    same: dict[str, Any] = {"device": device, "precision": precision}
    kept = out / "ladder_cost.json"
    record: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {"answers": [], "training": []}
    record |= {"ran on": surroundings(), "size": size, "batch": batch, **same}
    for count in experiences:
        if count not in [row["experiences"] for row in record["answers"]]:
            row = answers(backbone, images[:batch], count, rounds, **same)
            record["answers"].append({"experiences": count, **row})
            write(out, "ladder_cost", record, tables(record))
    for count in epochs:
        if count not in [row["epochs"] for row in record["training"]]:
            record["training"].append(training(backbone, images[:number], count, max(1, rounds // 2), **same))
            write(out, "ladder_cost", record, tables(record))


def tables(record: dict[str, Any]) -> str:
    """Return what was measured, as Markdown."""
    keys = [key for kind in KINDS for key in (kind, f"{kind}s tried")]
    lines = [[str(row["experiences"]), *(f"{row[key]:.2f}" for key in keys)] for row in record["answers"]]
    text = table(["experiences", *(f"{key} [own passes]" if key in KINDS else key for key in keys)], lines)
    keys = ["bottleneck in ladders' time", "kept for gradients", "peak of a step", "peak with cached views"]
    lines = [[str(row["epochs"]), *(f"{row[key]:.2f}" for key in keys)] for row in record["training"]]
    return f"{text}\n{table(['epochs', *keys], lines)}"


if __name__ == "__main__":
    typer.run(main)
