"""What a backbone's update breaks of a model, and how much of it the port wins back with a few unlabelled images.

    python benchmarks/port.py update --images DIR --weights FILE --seed 1993 --out updated-1993.safetensors
    python benchmarks/port.py measure --images DIR --weights FILE --updated FOLDER --out port.json

`DIR` holds train/CLASS and test/CLASS, cut in two halves as in benchmarks/strata.py. The update fine-tunes all weights
of the ViT on the half "tune"; models are of classes of the half "report".
"""

from __future__ import annotations

import json
from typing import Annotated

import safetensors.torch
import torch
import typer
from arguments import Images, Out, Weights
from real_streams import half_of
from torch import nn

from continual.backbones.loading import load_backbone
from continual.data.images import open_image

SIZE = 70
STEPS, BATCH, RATE = 120, 16, 1e-4

app = typer.Typer()


@app.command()
def update(
    images: Images,
    weights: Weights,
    out: Out,
    seed: int = 1993,
    half: str = "tune",
    last: Annotated[int, typer.Option(help="Only so many of its last classes; 0: all.")] = 0,
) -> None:
    """Fine-tune all weights of the ViT on classes of a half, for 120 steps of AdamW, and write them."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    backbone = load_backbone(weights=weights, img_size=SIZE, crop_scale=(0.4, 1.0))
    names = half_of(images, half)[-last:]
    rows = [(path, c) for c, name in enumerate(names) for path in sorted((images / "train" / name).iterdir())]
    network = backbone.frozen.network.requires_grad_(True).train()
    head, view = nn.Linear(backbone.width, len(names)), backbone.preprocessing.training()
    groups = [{"params": list(network.parameters())}, {"params": list(head.parameters()), "lr": 10 * RATE}]
    optimizer = torch.optim.AdamW(groups, lr=RATE, weight_decay=0.05)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, [RATE, 10 * RATE], total_steps=STEPS)
    for step in range(STEPS):
        chosen = [rows[i] for i in torch.randint(len(rows), (BATCH,)).tolist()]
        batch = torch.stack([view(open_image(path)) for path, _ in chosen])
        loss = nn.functional.cross_entropy(head(network(batch)), torch.tensor([c for _, c in chosen]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        scheduler.step()
        if step % 10 == 0:
            print(f"step {step}: loss {float(loss):.2f}", flush=True)
    metadata = {"timm": backbone.name, **{k: json.dumps(v) for k, v in backbone.model_args.items()}}
    out.parent.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file({k: v.contiguous() for k, v in network.state_dict().items()}, out, metadata=metadata)


@app.command()
def measure() -> None:
    """To come."""


if __name__ == "__main__":
    app()
