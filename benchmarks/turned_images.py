"""Upright and transformed test images: a frozen network, and every way of making it equivariant, on real images.

    python benchmarks/turned_images.py --images DIR --weights FILE --out DIR [--group C4 --group D4]

DIR holds train/ and test/ with one folder per class. Every fifth training image is held out. A linear head is fitted to
the frozen network's features of the upright others; λ, and what is fine-tuned, are trained through the loss on them
and stopped by the held-out images; the canonicaliser's and the pruned orbit's small networks are trained to find the
upright view. "Transformed" is the mean over all elements of the group; "upright view found" the share of images whose
heaviest (or only) view is the upright one. Every row is the wrapper itself on the images; what the network says of an
input it has seen is remembered, which changes no answer. "Passes" counts passes of the network per image, parts of one
by their share of its blocks; "time" is that of eight images without the memory, as a ratio to plain, measured with
the first seed.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import timm
import torch
import torch.nn.functional as F
import typer
from arguments import Images as ImagesOption
from arguments import Out, Size, Weights
from rich.progress import track
from safetensors.torch import load_file
from torch import Tensor, nn
from turned_measures import Images, Remembered, measure, time_ratio
from turned_report import report

import equivariant as eq
from continual.backbones.loading import load_backbone
from continual.data.inputs import open_image
from continual.data.preprocessing import Preprocessing
from continual.datasets.config import load_data
from continual.datasets.streams import split_classes
from continual.experiments.config import DataConfig
from continual.experiments.equivariance.study import linear_head


class RememberedStages(eq.Staged):
    """A staged ViT whose parts are remembered."""

    def __init__(self, staged: eq.StagedViT) -> None:
        super().__init__()
        share = staged.blocks / staged.depth
        self.first, self.second = Remembered(staged.early, share), Remembered(staged.late, 1 - share)
        self.width, self.blocks = staged.width, staged.blocks

    def early(self, x: Tensor) -> Tensor:
        return self.first(x)

    def late(self, state: Tensor) -> Tensor:
        return self.second(state)


class HalfPrecision(nn.Module):
    """A network to be fine-tuned: a ViT under bfloat16 autocast, in a third of the time."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.half = isinstance(module, timm.models.VisionTransformer)

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, torch.bfloat16, enabled=self.half):
            return self.module(x).float()


def network(kind: str, weights: Path, size: int) -> tuple[nn.Module, Preprocessing]:
    """Return a frozen network that gives features, and its preprocessing."""
    if kind == "vit":
        backbone = load_backbone(weights=weights, img_size=size)
        return backbone.frozen.network, backbone.preprocessing
    model = timm.create_model("tf_efficientnet_lite0")
    model.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in load_file(weights).items()})
    features, _ = eq.take_off_head(model)
    half = (0.5, 0.5, 0.5)
    features.to(memory_format=torch.channels_last)  # a third of the time
    return features.requires_grad_(False).eval(), Preprocessing((size, size), half, half, "bicubic", 1.0)


@dataclass(frozen=True)
class Study:
    """The images of one seed."""

    train: Images
    held_out: Images
    test: Images


def sets(folder: Path, seed: int, classes: int, per_class: int, preparation: Preprocessing) -> Study:
    """Return the images of `classes` classes drawn by `seed`, every fifth training image held out."""
    train, test = load_data(DataConfig(source="folder", train=folder / "train", test=folder / "test"))
    stream = split_classes("turned", train, test, sizes=classes, seed=seed, max_classes=classes, per_class=per_class)
    (e,), view = stream.experiences, preparation.evaluation()

    def prepared(images: Any, labels: Any) -> Images:
        inputs = torch.stack([view(open_image(image)) for image in images])
        return inputs, torch.tensor([e.classes.index(label) for label in labels])

    inputs, targets = prepared(e.train_images, e.train_labels)
    fifth = torch.arange(len(targets)) % 5 == 4
    held_out = inputs[fifth], targets[fifth]
    return Study((inputs[~fifth], targets[~fifth]), held_out, prepared(e.test_images, e.test_labels))


def find_upright(score: nn.Module, views: Tensor, identity: int, seed: int) -> None:
    """Train a score to prefer the identity's view; `views` is what it reads of the orbit, (|G|, N, ...)."""
    target = torch.full((views.shape[1],), identity)
    draw = torch.Generator().manual_seed(seed)
    steps = [rows for _ in range(8) for rows in torch.randperm(len(target), generator=draw).split(64)]
    optimizer = torch.optim.AdamW(score.parameters(), lr=3e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, len(steps))
    for rows in steps:
        part = views[:, rows]
        scores = score(part.flatten(0, 1)).unflatten(0, part.shape[:2])
        optimizer.zero_grad()
        F.cross_entropy(scores.mT, target[rows]).backward()
        optimizer.step()
        schedule.step()


def tuned(model: nn.Module, g: eq.FiniteGroup, data: Study, stage: eq.Stage, every: int, seed: int) -> nn.Module:
    """Run one stage of training; `every` so many steps the held-out images are scored."""
    batch = 64 if stage.train == "weights" else 16
    recipe = eq.Recipe((stage,), batch_size=batch, validate_every=every, seed=seed)
    eq.tune(model, data.train, data.held_out, recipe, group=g)
    return model


def turned(g: eq.FiniteGroup, data: Images) -> Images:
    """Return every image in every position."""
    return eq.orbit(g, data[0]).flatten(0, 1), data[1].repeat(g.order)


def wrappers(
    features: Remembered,
    stages: list[RememberedStages],
    head: nn.Linear,
    g: eq.FiniteGroup,
    data: Study,
    seed: int,
    steps: int,
) -> Iterator[tuple[str, nn.Module, list[Remembered]]]:
    """Yield (row, model giving class scores, where it asks the network); `steps` of fine-tuning, 0 for no such rows."""
    images, labels = data.train
    torch.manual_seed(seed)
    plain = nn.Sequential(features, head)
    yield "plain", plain, [features]
    yield "equitune", eq.Equitune(plain, g), [features]
    yield "class-wise maximum", eq.OrbitMax(plain, g), [features]
    yield "equizero, entropy", eq.Equizero(plain, g, proxy="entropy"), [features]
    yield "equizero, max probability", eq.Equizero(plain, g, proxy="max_probability"), [features]
    with torch.no_grad():
        upright = features(images)
    means = torch.stack([upright[labels == c].mean(0) for c in range(head.out_features)])
    nearest = eq.Equizero(features, g, proxy=eq.Similarity(means))
    yield "equizero, similarity to class means", nn.Sequential(nearest, head), [features]
    learned = eq.LambdaEquitune(features, g, head=head, width=head.in_features)
    tuned(learned, g, data, eq.Stage("weights", steps=200, learning_rate=1e-3, weight_decay=1e-2), 10, seed)
    yield "λ-equitune, λ only", learned, [features]
    canonical = eq.Canonicaliser(plain, g)
    find_upright(canonical.score, eq.orbit(g, images), g.identity, seed)
    yield "canonicaliser", canonical, [features]
    for parts in stages:
        yield from pruned(parts, head, g, images, seed)
    if steps:
        everything = eq.Stage("everything", steps=steps, learning_rate=1e-5)
        network = HalfPrecision(copy.deepcopy(features.module))
        model = eq.LambdaEquitune(network, g, head=copy.deepcopy(head), network=copy.deepcopy(learned.network))
        tuned(model, g, data, everything, max(1, steps // 4), seed)
        model.model = Remembered(network.module.eval())
        yield "λ-equitune, fine-tuned", model, [model.model]
        network = HalfPrecision(copy.deepcopy(features.module))
        model = nn.Sequential(network, copy.deepcopy(head))
        tuned(model, g, replace(data, held_out=turned(g, data.held_out)), everything, max(1, steps // 4), seed)
        model[0] = Remembered(network.module.eval())
        yield "plain, fine-tuned on turned images", model, [model[0]]


def pruned(
    stages: RememberedStages, head: nn.Linear, g: eq.FiniteGroup, images: Tensor, seed: int
) -> Iterator[tuple[str, nn.Module, list[Remembered]]]:
    """Yield the pruned orbits: k blocks for all views, the rest for the m best."""
    score = eq.FeatureScore(stages.width)
    with torch.no_grad():
        tokens = torch.cat([stages.early(x).mean(1) for x in eq.orbit(g, images).flatten(0, 1).split(32)])
    find_upright(score, tokens.unflatten(0, (g.order, -1)), g.identity, seed)
    for keep in (1, 2):
        model = nn.Sequential(eq.PrunedOrbit(stages, g, keep=keep, score=score), head)
        yield f"pruned orbit, k={stages.blocks}, m={keep}", model, [stages.first, stages.second]


def main(
    images: ImagesOption,
    weights: Weights,
    out: Out,
    group: Annotated[list[str] | None, typer.Option(help="C4, D4, ...; C4 and D4 by default.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Of classes and training; 1993 to 1995 by default.")] = None,
    kind: Annotated[str, typer.Option(help="vit or cnn.")] = "vit",
    size: Size = 98,
    classes: int = 20,
    per_class: int = 40,
    fine_tune: Annotated[list[str] | None, typer.Option(help="Groups with fine-tuned rows; C4 by default.")] = None,
    fine_tune_steps: Annotated[int, typer.Option(help="Steps of 16 images.")] = 50,
) -> None:
    """Run the study; write a file per group and seed (never run again), results.md and upright_turned.png."""
    groups, seeds = group or ["C4", "D4"], seed or [1993, 1994, 1995]
    out.mkdir(parents=True, exist_ok=True)
    for s in seeds:
        missing = [name for name in groups if not (out / f"{name}-{s}.json").exists()]
        if missing:
            model, preparation = network(kind, weights, size)
            data = sets(images, s, classes, per_class, preparation)
            features = Remembered(model)
            stages = [RememberedStages(eq.StagedViT(model, k)) for k in (2, 3, 4)] if kind == "vit" else []
            head = linear_head(features(data.train[0]).numpy(), data.train[1].numpy(), classes)
            plain = nn.Sequential(features, head)
        for name in missing:
            g, figures = eq.as_group(name), {}
            steps = fine_tune_steps if name in (fine_tune or ["C4"]) else 0
            made = wrappers(features, stages, head, g, data, s, steps)
            rows = 8 + 2 * len(stages) + (2 if steps else 0)
            for row, wrapped, places in track(made, f"{name}, seed {s}", total=rows):
                figures[row] = measure(wrapped, g, data.test, places)
                if s == seeds[0]:
                    figures[row]["time"] = time_ratio(wrapped, plain, data.test[0][:8], [features, *places])
            (out / f"{name}-{s}.json").write_text(json.dumps(figures, indent=1, ensure_ascii=False) + "\n")
    report(out, groups, seeds)


if __name__ == "__main__":
    typer.run(main)
