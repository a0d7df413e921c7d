"""Whether growing a small ViT pays over training a large one from nothing, on scikit-learn's digits.

    python benchmarks/grow.py --out grow.json

A ViT of 3 blocks of width 16 is trained on 1,000 labelled digits for 400 steps and grown to 6 blocks of width 32. All
are then trained as it was, with a head that starts from the small one's; accuracy is on the other 797 digits. The seed
draws weights, batches and the split. Mango's operator is trained for 100 steps first, by `grown`, without labels.
"""

from __future__ import annotations

import json
from typing import Any

import torch
import typer
from arguments import SEEDS, Out
from sklearn.datasets import load_digits
from torch import Tensor, nn

from continual.backbones.loading import Backbone, assemble, create
from continual.resizing.growing import grown
from continual.seeding import generator, seeded

NAME = "vit_tiny_patch16_224"
SMALL: dict[str, Any] = {
    "img_size": 8, "patch_size": 2, "in_chans": 1, "embed_dim": 16, "depth": 3, "num_heads": 2,
}  # fmt: skip
LARGE = {**SMALL, "embed_dim": 32, "depth": 6, "num_heads": 4}
SHOWN = (0, 25, 50, 100, 200)  #: steps of the large network
STEPS, BATCH, RATE = 400, 64, 1e-3
PREPARED: dict[str, Any] = {"mean": (0.5,), "std": (0.5,), "crop_scale": (0.7, 1.0), "mirror": False}
_TAUGHT = {"steps": 100, "lr": RATE, "batch_size": 16}
WAYS: dict[str, dict[str, Any] | None] = {
    "scratch": None,
    "lossless": {},
    "duplicate": {"how": "duplicate"},
    "duplicate, distilled": {"how": "duplicate", **_TAUGHT},
    "mango": {"how": "mango", **_TAUGHT},
}

app = typer.Typer()


def new(arguments: dict[str, Any], seed: int) -> Backbone:
    """Return a ViT with random weights."""
    with seeded(seed, "weights", arguments["embed_dim"]):
        network = create(NAME, arguments)
    return assemble(network, NAME, arguments, **PREPARED)


def head_of(width: int, small: nn.Linear | None, seed: int) -> nn.Linear:
    """Return a classifier: of a grown network's copies, shares of the small one's."""
    with seeded(seed, "head"):
        head = nn.Linear(width, 10)
    if small is not None:
        copies = width // small.in_features
        head.weight.data, head.bias.data = small.weight.data.repeat(1, copies) / copies, small.bias.data.clone()
    return head


def train(
    backbone: Backbone, head: nn.Linear, data: tuple[Tensor, ...], seed: int, shown: tuple[int, ...]
) -> list[float]:
    """Train all weights, and return accuracies after so many steps."""
    network: Any = backbone.frozen.network.requires_grad_(True)
    x, y, test, truth = data
    optimizer = torch.optim.AdamW([*network.parameters(), *head.parameters()], lr=RATE, weight_decay=0.05)
    draw, found = generator(seed, "batches", backbone.width), []
    for step in range(max(shown) + 1):
        if step in shown:
            with torch.no_grad():
                found.append(float((head(network(test)).argmax(1) == truth).float().mean()))
        if step == max(shown):
            break
        rows = torch.randint(len(x), (BATCH,), generator=draw)
        loss = nn.functional.cross_entropy(head(network(x[rows])), y[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    network.requires_grad_(False)
    return found


@app.command()
def main(out: Out) -> None:
    """Measure every way to start the large network, for every seed."""
    torch.set_num_threads(1)
    digits = load_digits()
    pictures = torch.from_numpy(digits.images * 15).to(torch.uint8).unsqueeze(1)
    inputs, labels = (pictures.float() / 255 - 0.5) / 0.5, torch.from_numpy(digits.target)
    rows: list[dict[str, Any]] = []
    for seed in SEEDS:
        order = torch.randperm(len(labels), generator=generator(seed, "split"))
        seen, left = order[:1000], order[1000:]
        data = (inputs[seen], labels[seen], inputs[left], labels[left])
        small, own = new(SMALL, seed), head_of(16, None, seed)
        last = train(small, own, data, seed, (STEPS,))[-1]
        small = assemble(small.frozen.network, NAME, SMALL, **PREPARED)
        for name, given in WAYS.items():
            head = head_of(32, own if given is not None else None, seed)
            if given is None:
                large = new(LARGE, seed)
            else:
                images = pictures[seen] if "steps" in given else None
                large = grown(small, images, width=32, depth=6, seed=seed, **given)
            found = dict(zip(map(str, SHOWN), train(large, head, data, seed, SHOWN), strict=True))
            rows.append({"seed": seed, "start": name, "small": last, "accuracy after steps": found})
            print(rows[-1], flush=True)
            out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    app()
