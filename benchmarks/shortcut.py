"""A planted shortcut: a logo on most images of half of the classes; what is lost by it, and what ways win back.

    python benchmarks/shortcut.py --images DIR --weights FILE --out results.json [--adapters] [--half report]

`DIR` holds train/CLASS and test/CLASS. A seed draws ten classes of the half and a logo, which lies in a corner of 95 %
of the training images of the first five classes and of 5 % of those of the others. Test images come with the logo as
in training, the other way round (against), and without any (clean). Concept images are of other classes: `--pairs` of
them, with and without the logo. "Learned clean" has the same training images without any logo. With `--adapters`,
`finetune` and `mos` train an adapter, with and without reading the logo's directions, instead of `ridge` and `strata`
on sums. With `--alphas`, the edit of MLP rows is tried at these strengths, and nothing else is; with `--controls`, also
of rows drawn at random, and along directions drawn at random.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import arguments
import numpy as np
import torch
from measuring import records_in, spread
from PIL import Image, ImageDraw
from real_streams import half_of
from remembered import studied
from selecting import files

from continual.learning.concept import Concept, Stamped
from continual.methods import method
from continual.statistics.ignored import MLPRows

CLASSES = 10
#: settings of what is trained: little, for one thread
TRAINED = {"epochs": 3, "batch_size": 16, "lr": 0.03, "alignment_epochs": 10}


def logo_of(seed: int) -> Image.Image:
    """Return a logo of 16 x 16 pixels: a disk and a bar of two colours on a third."""
    colours = np.random.RandomState(seed).permutation(["red", "yellow", "blue", "white", "lime", "magenta"])[:3]
    logo = Image.new("RGBA", (16, 16), str(colours[0]))
    draw = ImageDraw.Draw(logo)
    draw.ellipse((2, 2, 13, 13), fill=str(colours[1]))
    draw.rectangle((2, 7, 13, 9), fill=str(colours[2]))
    return logo


def marked(paths: Sequence[Path], which: Sequence[bool], logo: Image.Image, seed: int) -> list[Any]:
    """Return images, some with the logo."""
    on = Stamped(paths, logo, 0.25, seed)
    return [on[i] if there else path for i, (path, there) in enumerate(zip(paths, which, strict=True))]


def record(asked: argparse.Namespace, backbone: Any, seed: int, name: str) -> list[dict[str, Any]]:
    """Learn in every way, and ask."""
    draw, names = np.random.RandomState(seed), half_of(asked.images, asked.half)
    order = [names[i] for i in draw.permutation(len(names))]
    classes, others = order[:CLASSES], order[CLASSES:]
    first = set(classes[: CLASSES // 2])
    paths, labels = files(asked.images / "train", classes, asked.per_class)
    test, truth = files(asked.images / "test", classes, asked.test)
    pool, _ = files(asked.images / "train", others, 100)
    chosen = [pool[i] for i in draw.permutation(len(pool))[: asked.pairs]]
    logo = logo_of(seed)
    mine = [bool(draw.rand() < (0.95 if label in first else 0.05)) for label in labels]
    tests = {
        "with it": marked(test, [label in first for label in truth], logo, seed + 1),
        "against it": marked(test, [label not in first for label in truth], logo, seed + 1),
        "clean": test,
    }
    pairs = Concept.of(chosen, stamp=logo, name="logo")
    half = len(chosen) // 2
    unpaired = Concept.of(marked(chosen[:half], [True] * half, logo, seed + 2), chosen[half:], name="logo")
    unseen = Concept.of(pool[: 2 * asked.pairs : 2], stamp=logo, name="logo")
    given = {"mirror": False} if name == "strata" else {**TRAINED, "seed": seed} if asked.adapters else {}
    given = {k: v for k, v in given.items() if k in method(name).settings_type.model_fields}
    stamped = marked(paths, mine, logo, seed)
    records: list[dict[str, Any]] = []

    def ask(way: str, learner: Any) -> None:
        found = {"method": name, "way": way, "seed": seed, "half": asked.half}
        found |= {key: 100 * learner.evaluate(images, truth) for key, images in tests.items()}
        found["changed"] = 100 * learner.concept_use(unseen).changed
        records.append(found)
        print(found, flush=True)

    learner = method(name)(backbone, **given)
    learner.learn(stamped, labels)
    ask("as learned", learner)
    for alpha in asked.alphas:
        for control in ("", "random rows", "random directions") if asked.controls else ("",):
            ask(f"edit of MLPs, {alpha:g}{control and ', '}{control}", edited(learner, pairs, alpha, control, seed))
    if asked.alphas:
        return records
    if learner.suppresses:
        learner.suppress(pairs)
        ask("suppressed, pairs", learner)
        learner.suppress(unpaired)
        ask("suppressed, no pairs", learner)
    if asked.adapters:
        learner = method(name)(backbone, **given)
        learner.learn(stamped, labels, ignoring=pairs)
        ask("learned ignoring it", learner)
    learner = method(name)(backbone, **given)
    learner.learn(paths, labels)
    ask("learned clean", learner)
    return records


def edited(learner: Any, concept: Concept, alpha: float, control: str, seed: int) -> Any:
    """Return a learner whose MLP rows are edited against a concept; of a control, rows or directions mean nothing."""
    other, draw = learner.variant(), torch.Generator().manual_seed(seed)
    other.suppress(concept, alpha, edit="mlp")
    (one,) = other.state.ignored
    rows, step = one.mlp.rows, one.mlp.step
    if control == "random rows":
        height = len(learner.backbone.frozen.network.blocks[0].mlp.fc1.weight)
        rows = torch.stack([torch.randperm(height, generator=draw)[: rows.shape[1]] for _ in rows])
    if control == "random directions":
        step = step.norm(dim=1, keepdim=True) * torch.nn.functional.normalize(
            torch.randn(step.shape, generator=draw), dim=1
        )
    other.state = replace(other.state, ignored=(replace(one, mlp=MLPRows(rows, step)),))
    return other


def table(records: list[dict[str, Any]]) -> str:
    """Return mean and deviation over the seeds as Markdown."""
    names = ("against it", "with it", "clean", "changed")
    lines = ["| method | way | seeds | against it | with it | clean | answers the logo changes |"]
    lines.append("| --- | --- |" + " ---: |" * 5)
    for key in dict.fromkeys((r["method"], r["way"]) for r in records):
        own = [r for r in records if (r["method"], r["way"]) == key]
        cells = [spread([r[name] for r in own]) for name in names]
        lines.append(f"| {key[0]} | {key[1]} | {len(own)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Write a record per seed, method and way, and print a Markdown table."""
    shared = ("images", "weights", "out", "half", "pixels", "test", "seeds", "adapters", "remember")
    parser = arguments.parser(__doc__, *shared, per_class={"default": 30})
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--methods", nargs="+")
    parser.add_argument("--alphas", nargs="+", type=float, default=[], help="of the edit of MLP rows")
    parser.add_argument("--controls", action="store_true")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    remembers = not (asked.adapters or asked.alphas)
    backbone: Any = studied(asked, remembers)
    records: list[dict[str, Any]] = records_in(asked.out)
    for seed in asked.seeds:
        for name in asked.methods or (("finetune", "mos") if asked.adapters else ("ridge", "strata")):
            if any(r["seed"] == seed and r["method"] == name for r in records):
                continue
            records += record(asked, backbone, seed, name)
            asked.out.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
            if remembers:
                backbone.frozen.keep()
    print(table(records))


if __name__ == "__main__":
    main()
