"""What a compressed backbone costs in accuracy, and saves in bytes: at several ratios, by how its factors are made.

    python benchmarks/compress.py make --images DIR --weights VIT --out backbones
    python benchmarks/compress.py read --images DIR --weights VIT --backbones backbones --out features
    python benchmarks/compress.py measure --features features --backbones backbones --weights VIT --out compress.json

`DIR` holds train/CLASS and test/CLASS, cut in two halves as in benchmarks/strata.py. Factors and distillation see
images of the half "tune", without labels; models are of classes of the half "report". `int8` is what `equimos export
--int8` does to the backbone's layers: weights in 8 bits by output channel, and inputs by the largest value of a batch.
"""

from __future__ import annotations

import copy
import json
import time
from pathlib import Path
from typing import Annotated, Any

import safetensors.torch
import torch
import typer
from arguments import SEEDS, Images, Out, Weights
from real_streams import half_of
from torch import Tensor, nn

from continual.backbones.factored import linear_layers
from continual.backbones.loading import Backbone, load_backbone, save_backbone
from continual.backbones.recipes import Compressed
from continual.data.images import open_image
from continual.methods.bases.regression import RegressionState
from continual.methods.ridge import RidgeLearner
from continual.methods.strata import StrataLearner
from continual.resizing.compressing import inputs, mend, put_factors, remade, sizes
from continual.resizing.images import Unlabelled
from continual.seeding import generator
from continual.statistics.ridge import GramStatistics
from continual.uncertainty.left_out import Rows

SIZE = 70
TRAIN, TEST = 12, 10  #: images of each class that are read
CLASSES, LEARNED = 30, 10  #: of a model, drawn by the seed from 50; images of each that it learns
RATIOS = [2.0, 1.5]

app = typer.Typer()
Backbones = Annotated[Path, typer.Option(help="A folder of backbone files.")]


@app.command()
def make(
    images: Images,
    weights: Weights,
    out: Out,
    seen: Annotated[int, typer.Option(help="Images of anything, without labels.")] = 400,
    epochs: Annotated[int, typer.Option(help="Of distillation.")] = 3,
    lr: float = 3e-4,
    ratio: Annotated[list[float], typer.Option(help="Ratios.")] = RATIOS,
) -> None:
    """Write backbones at every ratio: by singular values alone, by inputs, and distilled."""
    torch.set_num_threads(1)
    backbone = load_backbone(weights=weights, img_size=SIZE, crop_scale=(0.4, 1.0))
    paths = [p for name in half_of(images, "tune") for p in sorted((images / "train" / name).iterdir())]
    chosen = [paths[i] for i in torch.randperm(len(paths), generator=generator(0, "seen"))[:seen].tolist()]
    out.mkdir(parents=True, exist_ok=True)
    data, started = Unlabelled(chosen, backbone), time.process_time()
    entering = inputs(backbone.frozen.network, data)
    print(f"inputs took {time.process_time() - started:.0f} s", flush=True)
    for one in ratio:
        found = sizes(backbone, one)
        recipe = Compressed(parent=backbone.sha256, ratio=one, ranks=found.ranks)
        # What `compressed` does, in its steps.
        for how, known in (("aware", entering), ("plain", {})):
            network, started = copy.deepcopy(backbone.frozen.network), time.process_time()
            put_factors(network, found.ranks, known)
            save_backbone(remade(backbone, copy.deepcopy(network), recipe), out / f"{how}-{one:g}.safetensors")
            print(f"{how}-{one:g} took {time.process_time() - started:.0f} s", flush=True)
            if known:
                mend(network, backbone.frozen.network, data, epochs, lr=lr, batch_size=16, progress=_every(25))
                save_backbone(remade(backbone, network, recipe), out / f"distilled-{one:g}.safetensors")
                print(f"distilled-{one:g} took {time.process_time() - started:.0f} s", flush=True)


def _every(steps: int) -> Any:
    def progress(stage: str, done: int, total: int, figures: dict[str, float]) -> None:
        if stage == "distilling" and done % steps == 0:
            print(stage, done, total, figures, flush=True)

    return progress


class _EightBits(nn.Module):
    """A linear layer as onnxruntime's dynamic quantisation computes it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        scale = layer.weight.abs().amax(1, keepdim=True) / 127
        self.weight, self.bias = (layer.weight / scale).round() * scale, layer.bias

    def forward(self, x: Tensor) -> Tensor:
        low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
        scale = (high - low) / 255
        zero = (-low / scale).round()
        return nn.functional.linear(((x / scale + zero).round().clamp(0, 255) - zero) * scale, self.weight, self.bias)


def in_eight_bits(network: nn.Module) -> None:
    """Put layers that compute in 8 bits in the place of the blocks' linear ones, factors included."""
    for name, layer in list(linear_layers(network).items()):
        parent, _, own = name.rpartition(".")
        setattr(network.get_submodule(parent), own, _EightBits(layer))


@app.command()
def read(images: Images, weights: Weights, backbones: Backbones, out: Out) -> None:
    """Keep what strata reads of all images and their mirror images, under every backbone, and in 8 bits under some."""
    torch.set_num_threads(1)
    names = half_of(images, "report")
    parts = {
        part: [path for name in names for path in sorted((images / part / name).iterdir())[:count]]
        for part, count in (("train", TRAIN), ("test", TEST))
    }
    out.mkdir(parents=True, exist_ok=True)
    for file in [weights, *sorted(backbones.glob("*.safetensors"))]:
        for bits in ("", "-int8") if file == weights or file.stem.startswith("distilled") else ("",):
            name = ("full" if file == weights else file.stem) + bits
            if (out / f"{name}.safetensors").exists():
                continue
            backbone = load_backbone(weights=file, img_size=SIZE)
            if bits:
                in_eight_bits(backbone.frozen.network)
            found = {part: _features(backbone, paths) for part, paths in parts.items()}
            safetensors.torch.save_file(found, out / f"{name}.safetensors")
            print(name, flush=True)


def _features(backbone: Backbone, paths: list[Path]) -> Tensor:
    """Return (n, 2, D'): what strata reads of images and of their mirror images."""
    learner, view = StrataLearner(backbone), backbone.preprocessing.evaluation()
    parts = []
    for first in range(0, len(paths), 50):
        batch = torch.stack([view(open_image(path)) for path in paths[first : first + 50]])
        with torch.no_grad():
            parts.append(torch.stack(list(learner.learned_features(learner.extractor, batch)), 1).half())
    return torch.cat(parts).contiguous()


@app.command()
def measure(
    features: Annotated[Path, typer.Option(help="What `read` wrote.")],
    backbones: Backbones,
    weights: Weights,
    out: Out,
) -> None:
    """Learn 30 of the 50 classes of every seed under every backbone; what `out` holds is not measured again."""
    torch.set_num_threads(1)
    backbone = load_backbone(weights=weights, img_size=SIZE)
    rows = json.loads(out.read_text()) if out.exists() else []
    done = {(row["method"], row["backbone"], row["int8"], row["seed"]) for row in rows}
    for kind in (RidgeLearner, StrataLearner):
        for path in sorted(features.glob("*.safetensors")):
            name, found = path.stem.removesuffix("-int8"), safetensors.torch.load_file(path)
            int8 = path.stem != name
            size = _bytes(weights if name == "full" else backbones / f"{name}.safetensors", int8)
            for seed in SEEDS:
                if (kind.method, name, int8, seed) in done:
                    continue
                row = {"backbone": name, "int8": int8, "bytes": size, "seed": seed, "method": kind.method}
                rows.append({**row, "accuracy": _accuracy(kind(backbone, seed=seed), found)})
                print(rows[-1], flush=True)
                out.write_text(json.dumps(rows, indent=1) + "\n")


def _bytes(file: Path, int8: bool) -> int:
    """Return bytes of weights: in float32, or with the blocks' layers in 8 bits and a scale for each output."""
    network = load_backbone(weights=file, img_size=SIZE).frozen.network
    every = 4 * sum(parameter.numel() for parameter in network.parameters())
    small = sum(3 * layer.weight.numel() - 4 * layer.out_features for layer in linear_layers(network).values())
    return every - int8 * small


def _accuracy(learner: Any, found: dict[str, Tensor]) -> float:
    """Return the accuracy of a model of some classes, drawn by its seed as are the images that it learns."""
    draw, every = generator(learner.settings.seed, "classes and images"), len(found["train"]) // TRAIN
    classes = torch.randperm(every, generator=draw)[:CLASSES].tolist()
    chosen = torch.cat([c * TRAIN + torch.randperm(TRAIN, generator=draw)[:LEARNED] for c in classes])
    tested = torch.cat([c * TEST + torch.arange(TEST) for c in classes])

    def part(name: str, rows: Tensor) -> Tensor:
        # The last class token of the image alone is what ridge reads, except for the last norm's gain.
        read_ = found[name][rows].float()
        return read_[:, :1, 6 * 384 : 7 * 384] if learner.method == "ridge" else read_

    rows = part("train", chosen)
    views = rows.shape[1]
    flat, of = rows.flatten(0, 1), torch.arange(CLASSES).repeat_interleave(LEARNED * views)
    readings = None if views == 1 else torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    sums = GramStatistics.of(flat, of, CLASSES).scaled(1 / views)
    names = {"classes": tuple(range(CLASSES)), "class_experience": (0,) * CLASSES, "experiences": 1, "updates": 1}
    state = learner.solved(RegressionState(**names, sums=sums), Rows(flat, of, views, 1 / views, readings))
    truth = torch.arange(CLASSES).repeat_interleave(TEST)
    return float((state.head(part("test", tested).mean(1)).argmax(-1) == truth).float().mean())


if __name__ == "__main__":
    app()
