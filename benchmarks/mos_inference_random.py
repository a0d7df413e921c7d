"""What one answer of MOS costs after 20 and 200 experiences, on random weights: nothing but the cost is real.

    python benchmarks/mos_inference_random.py --device cuda --out DIR

Adapters are random, so how often an image is refined is not what trained ones give: see `passes`, and mos_inference.py
for learned streams. Sides and units are those of mos_inference.py.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Any

import timm
import torch
import typer
from arguments import Device, Out, Size
from measuring import ceilings, surroundings, table, write
from mos_inference import cost, latencies
from torch import Tensor

from continual.backbones.loading import assemble
from continual.methods.mos.learner import MOSLearner


def learner_of(model: str, size: int, experiences: int, device: str, precision: str) -> MOSLearner:
    """Return a learner of one class per experience whose adapters are drawn by chance."""
    torch.manual_seed(0)
    args = {"img_size": size}
    backbone = assemble(timm.create_model(model, num_classes=0, **args), model, args)
    learner = MOSLearner(
        backbone, device=device, precision=precision, epochs=0, alignment_epochs=0, statistics="diagonal"
    )
    return with_random_adapters(learner, experiences)


def with_random_adapters(learner: MOSLearner, experiences: int) -> MOSLearner:
    """Return a new learner of one class per experience, untrained, whose adapters are drawn by chance."""
    learner = learner.variant(epochs=0, alignment_epochs=0, statistics="diagonal")
    labels = 2 * list(range(experiences))
    learner.learn(torch.randn(len(labels), 3, *learner.backbone.frozen.image_size), labels)
    draw, state = torch.Generator().manual_seed(0), learner.state

    def random(name: str, tensor: Tensor) -> Tensor:
        return (0.02 * torch.randn(tensor.shape, generator=draw)).to(tensor) if name.startswith("up") else tensor

    learner.state = replace(
        state,
        bank=tuple({name: random(name, own) for name, own in state.bank[0].items()} for _ in labels[:experiences]),
        class_experience=tuple(labels[:experiences]),
        experiences=experiences,
        shifts=state.shifts * experiences,
    )
    return learner


def main(
    out: Out,
    model: Annotated[str, typer.Option(help="A timm ViT.")] = "vit_base_patch16_224.augreg_in21k",
    size: Size = 224,
    device: Device = "cpu",
    smoke: Annotated[bool, typer.Option(help="Two experiences, one round, one batch.")] = False,
) -> None:
    """Measure, and write mos_inference_random.json and .md."""
    record: dict[str, Any] = {"ran on": surroundings(), "ceilings": ceilings(device), "costs": [], "latency": {}}
    images = torch.randn(4 if smoke else 256, 3, size, size, generator=torch.Generator().manual_seed(1)).to(device)
    lines = []
    with torch.no_grad():
        for experiences in (2,) if smoke else (20, 200):
            for precision in ("float32", "bfloat16"):
                learner = learner_of(model, size, experiences, device, precision)
                batch, few = (4, 2) if smoke else (64, 16 if experiences == 20 else 4)
                row = {"experiences": experiences, "precision": precision}
                row |= cost(learner, images[:batch], few, 1 if smoke else 3)
                record["costs"].append(row)
                lines.append(
                    [str(experiences), precision, str(batch)]
                    + [f"{row[key]:.2f}" for key in ("plain [ms an image]", "ours", "reference", "passes in the batch")]
                )
                print(row, flush=True)
        if not smoke:
            record["latency"] = {"experiences": experiences, "rows": latencies(learner, images)}
    limits = ", ".join(f"{name} {value:.0f}" for name, value in record["ceilings"].items())
    headings = ["T", "precision", "batch", "plain [ms per image]", "ours", "reference", "passes in the batch"]
    text = f"{model}, {size} px. Measured ceilings: {limits}.\n\n{table(headings, lines)}"
    if rows := record["latency"].get("rows"):
        found = [[str(row["batch"]), row["side"], f"{1e3 * row['p50 [s]']:.1f}", f"{1e3 * row['p95 [s]']:.1f}",
                  f"{row['batch'] / row['p50 [s]']:.1f}"] for row in rows]  # fmt: skip
        text += "\n" + table(["batch", "side", "p50 [ms]", "p95 [ms]", "images/s"], found)
    write(out, "mos_inference_random", record, text)


if __name__ == "__main__":
    typer.run(main)
