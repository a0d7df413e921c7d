"""Which images of a pool to label: at random, by k-means, by patterns; and with a model that knows half of the classes.

    python benchmarks/selecting.py --images DIR --weights FILE --out results.json [--half report] [--seeds ...]

`DIR` holds train/CLASS and test/CLASS. A seed draws `--classes` classes of the half, as benchmarks/strata.py cuts them;
the pool are all their training images. `--methods` learn those that are picked, with their labels, and are asked about
the test images (`strata` with mirror=False). `--out` and `--remember` are read if they are there: what is in them
costs nothing. Balanced is at random with the same number a class: that takes the labels beforehand. With a known model,
the first of the methods has learned 20 images of half of the classes; counted is the share of picks that are of the
other half, and the accuracy after it has learned them.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import arguments
import numpy as np
import torch
from measuring import records_in, spread
from real_streams import half_of
from remembered import remembering

from continual.backbones.loading import Backbone, load_backbone
from continual.data.inputs import PreparedImages
from continual.learning.pool import By, select
from continual.methods import method

WAYS = ("random", "balanced", "image", "patterns")


def files(folder: Path, classes: list[str], most: int | None = None) -> tuple[list[Path], list[str]]:
    """Return the first images of some classes, all of them by default, and their labels."""
    found = [(path, name) for name in classes for path in sorted((folder / name).iterdir())[:most]]
    return [path for path, _ in found], [name for _, name in found]


def read(paths: list[Path], backbone: Any) -> None:
    """Run images through the ViT, and keep what it says on the way: a run that is stopped goes on from there."""
    data = PreparedImages(paths, [0] * len(paths), backbone.preprocessing, augment=False)
    for first in range(0, len(paths), 256):
        before = len(backbone.frozen.tokens)
        with torch.no_grad():
            images = [data[i][0] for i in range(first, min(first + 256, len(paths)))]
            for batch in torch.stack(images).split(32):
                backbone.frozen.features(batch)
        if len(backbone.frozen.tokens) > before:
            backbone.frozen.keep()


def picks(
    way: str, pool: list[Path], labels: list[str], budget: int, backbone: Any, seed: int, known: Any
) -> list[int]:
    """Return the places in the pool that a way chooses."""
    draw = np.random.RandomState(seed)
    if way == "random":
        return [int(i) for i in draw.permutation(len(pool))[:budget]]
    if way == "balanced":
        names = sorted(set(labels))
        own = {name: draw.permutation([i for i, label in enumerate(labels) if label == name]) for name in names}
        rounds = [own[name][number] for number in range(-(-budget // len(names))) for name in draw.permutation(names)]
        return [int(i) for i in rounds[:budget]]
    by: By = "patterns" if way.startswith("patterns") else "image"
    if known is not None:
        return select(pool, budget, known=known, by=by, seed=seed).indices
    return select(pool, budget, backbone, by=by, seed=seed).indices


def record(
    asked: argparse.Namespace, backbone: Any, plain: Backbone, seed: int, budget: int, kept: dict[int, list[int]]
) -> list[dict[str, Any]]:
    """Pick, learn and ask, in every way; `kept` has picks by patterns, of which fewer are the first."""
    names = half_of(asked.images, asked.half)
    classes = [names[i] for i in np.random.RandomState(seed).permutation(len(names))[: asked.classes]]
    pool, labels = files(asked.images / "train", classes)
    test, truth = files(asked.images / "test", classes)
    read(pool + test, backbone)
    records = []
    for way in asked.ways:
        if way == "patterns":
            if seed not in kept:
                kept[seed] = picks(way, pool, labels, max(asked.budgets), plain, seed, None)
            own = kept[seed][:budget]
        else:
            own = picks(way, pool, labels, budget, backbone, seed, None)
        found: dict[str, Any] = {"known": False, "way": way, "classes covered": len({labels[i] for i in own})}
        for name in asked.methods:
            learner = learner_of(name, backbone)
            learner.learn([pool[i] for i in own], [labels[i] for i in own])
            answers = learner.predict(test).labels
            found[name] = 100 * sum(a == b for a, b in zip(answers, truth, strict=True)) / len(truth)
        records.append(found)
    half = set(classes[: len(classes) // 2])
    old = [i for name in half for i in [j for j, label in enumerate(labels) if label == name][:20]]
    rest = [i for i in range(len(pool)) if i not in set(old)]
    paths, names_of = [pool[i] for i in rest], [labels[i] for i in rest]
    for way in ("random", "image", "image, known"):
        model = learner_of(asked.methods[0], backbone)
        model.learn([pool[i] for i in old], [labels[i] for i in old])
        own = picks(way, paths, names_of, budget, backbone, seed, model if way.endswith("known") else None)
        found = {"known": True, "way": way, "of new classes": 100 * sum(names_of[i] not in half for i in own) / budget}
        model.learn([paths[i] for i in own], [names_of[i] for i in own])
        answers = model.predict(test).labels
        found[asked.methods[0]] = 100 * sum(a == b for a, b in zip(answers, truth, strict=True)) / len(truth)
        records.append(found)
    return [{"half": asked.half, "classes": asked.classes, "seed": seed, "budget": budget, **r} for r in records]


def learner_of(name: str, backbone: Any) -> Any:
    """Return a learner; of strata, one that reads each image once, as the others do."""
    return method(name)(backbone, **({"mirror": False} if name == "strata" else {}))


def table(records: list[dict[str, Any]], known: bool, methods: Sequence[str]) -> str:
    """Return mean and deviation over the seeds as Markdown."""
    records = [r for r in records if r["known"] == known]
    names = ("of new classes", methods[0]) if known else ("classes covered", *methods)
    lines = ["| labels | picked | seeds | " + " | ".join(names) + " |", "| ---: | --- |" + " ---: |" * (len(names) + 1)]
    for key in dict.fromkeys((r["budget"], r["way"]) for r in records):
        own = [r for r in records if (r["budget"], r["way"]) == key]
        cells = [spread([r[name] for r in own]) for name in names]
        lines.append(f"| {key[0]} | {key[1]} | {len(own)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Write a record per seed, budget and way, and print Markdown tables."""
    parser = arguments.parser(__doc__, "images", "weights", "out", "half", "pixels", "seeds", "remember")
    parser.add_argument("--classes", type=int, default=25)
    parser.add_argument("--budgets", type=int, nargs="+", default=[50, 125])
    parser.add_argument("--methods", nargs="+", default=["ridge", "simple_cil"])
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=WAYS)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    plain = load_backbone(weights=asked.weights, img_size=asked.pixels)
    backbone: Any = remembering(plain, asked.remember)
    records: list[dict[str, Any]] = records_in(asked.out)
    kept: dict[int, list[int]] = {}
    for seed in asked.seeds:
        for budget in asked.budgets:
            if any(r["seed"] == seed and r["budget"] == budget for r in records):
                continue
            records += record(asked, backbone, plain, seed, budget, kept)
            asked.out.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
            print(f"seed {seed}, {budget} labels", flush=True)
    print(table(records, False, asked.methods), table(records, True, asked.methods), sep="\n\n")


if __name__ == "__main__":
    main()
