"""A pruned orbit before and after its tuning, on real images: passes of the network per answer, and accuracy.

    python benchmarks/tuned_pruned.py --images DIR --weights FILE --out FILE.json

Data, frozen ViT and linear head are those of `turned_images.py`. The score of the views after `--blocks` blocks is
trained by `equivariant.tune` with the stages that a row names: "weights" through the labels and the loss, "upright"
without labels, on the same images or on `--more` upright images of classes that are not asked about. Stages end by the
held-out images. Columns are those of `turned_images.py`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import torch
import typer
from arguments import SEEDS, Figures, Size, Weights
from arguments import Images as ImagesOption
from torch import nn
from turned_images import RememberedStages, Study, network, sets
from turned_measures import Images, Remembered, measure

import equivariant as eq
from continual.console import add_row, console, new_table
from continual.data.inputs import open_image
from continual.data.preprocessing import Preprocessing
from continual.datasets.config import load_data
from continual.datasets.streams import split_classes
from continual.experiments.config import DataConfig
from continual.experiments.equivariance.study import linear_head

WEIGHTS = eq.Stage("weights", steps=200, learning_rate=1e-3, weight_decay=1e-2)
UPRIGHT = eq.Stage("upright", steps=400, learning_rate=1e-3, weight_decay=1e-2)
Measures = dict[str, float | None]
#: what a row's score is trained with, one stage after the other, and whether "upright" has more images
ROWS = {
    "untrained": (),
    "weights": (WEIGHTS,),
    "upright": (UPRIGHT,),
    "upright, weights": (UPRIGHT, WEIGHTS),
    "upright on more": (UPRIGHT,),
    "upright on more, weights": (UPRIGHT, WEIGHTS),
}


def others(folder: Path, seed: int, classes: int, count: int, preparation: Preprocessing) -> Images:
    """Return upright training images of the classes that `sets` leaves out; their labels say nothing."""
    train, test = load_data(DataConfig(source="folder", train=folder / "train", test=folder / "test"))
    stream = split_classes("turned", train, test, sizes=classes, seed=seed, max_classes=classes, per_class=1)
    free = [image for image, label in zip(train.images, train.labels, strict=True) if label not in stream.class_order]
    drawn, view = np.random.default_rng(seed).permutation(len(free))[:count], preparation.evaluation()
    inputs = torch.stack([view(open_image(free[i])) for i in drawn])
    return inputs, torch.zeros(len(inputs), dtype=torch.int64)


def tuned(
    wrapper: eq.PrunedOrbit, head: nn.Linear, stages: tuple[eq.Stage, ...], seed: int, data: Study, more: Images | None
) -> None:
    """Train the wrapper's score, stage by stage; "upright" on `more`, if there are such images."""
    for stage in stages:
        train = more if more is not None and stage.train == "upright" else data.train
        recipe = eq.Recipe((stage,), validate_every=10, seed=seed)
        eq.tune(nn.Sequential(wrapper, head), train, data.held_out, recipe)


def rows(
    model: nn.Module, head: nn.Linear, data: Study, more: Images, seed: int, blocks: int
) -> Iterator[tuple[str, Measures]]:
    """Yield the figures of every row for one seed."""
    features, stages = Remembered(model), RememberedStages(eq.StagedViT(model, blocks))
    plain, g = nn.Sequential(features, head), eq.as_group("C4")
    yield "plain", measure(plain, g, data.test, [features])
    yield "equitune", measure(eq.Equitune(plain, g), g, data.test, [features])
    for keep in (1, 2):
        for name, trained in ROWS.items():
            torch.manual_seed(seed)
            wrapper = eq.PrunedOrbit(stages, g, keep=keep)
            tuned(wrapper, head, trained, seed, data, more if "more" in name else None)
            places = [stages.first, stages.second]
            yield f"m={keep}, {name}", measure(nn.Sequential(wrapper, head), g, data.test, places)


def table(found: dict[str, dict[str, Measures]]) -> list[list[str]]:
    """Return a line a row: mean and standard deviation over the seeds of each figure."""
    lines = []
    for row in next(iter(found.values())):
        cells = [row]
        for key, factor in (("upright", 100), ("turned", 100), ("found", 100), ("passes", 1)):
            values = [seed[row][key] for seed in found.values()]
            if None in values:
                cells.append("–")
                continue
            numbers = factor * np.array(values, float)
            spread = f" ± {numbers.std(ddof=1):.1f}" if len(numbers) > 1 and factor > 1 else ""
            cells.append(f"{numbers.mean():.{1 if factor > 1 else 2}f}{spread}")
        lines.append(cells)
    return lines


def main(
    images: ImagesOption,
    weights: Weights,
    out: Figures,
    seed: Annotated[list[int] | None, typer.Option(help="Of classes and training; 1993 to 1995 by default.")] = None,
    size: Size = 98,
    classes: int = 16,
    per_class: int = 25,
    blocks: Annotated[int, typer.Option(help="Blocks that every view goes through.")] = 2,
    more: Annotated[int, typer.Option(help="Upright images of other classes.")] = 1000,
) -> None:
    """Measure what is not in the file of figures yet, and print the table."""
    found: dict[str, dict[str, Measures]] = json.loads(out.read_text()) if out.exists() else {}
    model, preparation = network("vit", weights, size)
    for s in seed or SEEDS:
        if str(s) in found:
            continue
        data = sets(images, s, classes, per_class, preparation)
        own = others(images, s, classes, more, preparation)
        with torch.no_grad():
            features = torch.cat([model(part) for part in data.train[0].split(64)])
        head = linear_head(features.numpy(), data.train[1].numpy(), classes)
        figures = {}
        for row, measures in rows(model, head, data, own, s, blocks):
            figures[row] = measures
            print(s, row, measures, flush=True)
        found[str(s)] = figures
        out.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    shown = new_table("", "upright [%]", "transformed [%]", "upright view found [%]", "passes")
    for line in table(found):
        add_row(shown, *line)
    console().print(shown)


if __name__ == "__main__":
    typer.run(main)
