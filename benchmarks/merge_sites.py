"""What merging gives on real images: three sites of five classes each, as one model, beside one place that had all.

    OMP_NUM_THREADS=1 python benchmarks/merge_sites.py --images DIR --others DIR --weights FILE --out merge_sites.json

Sites learn classes of the half on which nothing was chosen, and share one more class, of whose images each has a third.
"In turn" is one place that learned what the sites have, one after the other. `others` are images of anything, at any
depth, by which features of trained adapters are mapped.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from arguments import SEEDS, Figures, Images, PerClass, Seeds, Size, Weights
from measuring import spread, surroundings, table
from real_streams import backbone_of, half_of

from continual.backbones.loading import Backbone
from continual.errors import InputError
from continual.learning.learner import IncrementalLearner
from continual.learning.merged import merged
from continual.methods import method

SITES, EACH, MAPPING = 3, 5, 200
TRAINED: dict[str, Any] = {"epochs": 4, "batch_size": 16, "precision": "bfloat16"}
#: methods with their settings, and the merge rules that are compared
METHODS: dict[str, tuple[dict[str, Any], tuple[str | None, ...]]] = {
    "mos": (TRAINED, (None,)),
    "aper": (TRAINED, ("mean", "pcb")),
    "slca": ({**TRAINED, "part": "last_blocks"}, ("mean", "pcb")),
    "strata": ({}, (None,)),
    "ease": (TRAINED, (None,)),
    "ranpac": ({**TRAINED, "projection": 2000}, ("mean", "pcb")),
}

Rows = list[tuple[Path, str]]


def parts(images: Path, per_class: int, test: int, seed: int) -> tuple[list[Rows], Rows]:
    """Return what each site has, and the test images of all classes."""
    draw = np.random.RandomState(seed)
    names = [str(name) for name in draw.permutation(half_of(images, "report"))[: SITES * EACH + 1]]
    train = {name: [*draw.permutation(sorted((images / "train" / name).iterdir()))[:per_class]] for name in names}
    sites = []
    for site in range(SITES):
        own: Rows = [(path, name) for name in names[site * EACH : (site + 1) * EACH] for path in train[name]]
        sites.append([*own, *((path, names[-1]) for path in train[names[-1]][site::SITES])])
    return sites, [(path, name) for name in names for path in sorted((images / "test" / name).iterdir())[:test]]


def right(learner: IncrementalLearner[Any], rows: Rows) -> float:
    """Return the share of images that are answered right [%]."""
    answers = learner.predict([path for path, _ in rows]).labels
    return 100 * sum(answer == own for answer, (_, own) in zip(answers, rows, strict=True)) / len(rows)


def measured(
    name: str, backbone: Backbone, sites: list[Rows], test: Rows, others: list[Path]
) -> dict[str, float | str]:
    """Return accuracies [%] of the sites, of what they are merged, and of one place."""
    settings, rules = METHODS[name]
    learners = [method(name)(backbone, **settings) for _ in sites]
    turn = method(name)(backbone, **settings)
    for learner, rows in zip(learners, sites, strict=True):
        for one in (learner, turn):
            one.learn([path for path, _ in rows], [own for _, own in rows])
    found: dict[str, float | str] = {"best site": max(right(one, test) for one in learners)}
    for rule in rules:
        key = "merged" if rule is None else f"merged, {rule}"
        try:
            found[key] = right(merged(learners, others, rule=rule), test)
        except InputError as error:
            found[key] = str(error)
    return found | {"in turn": right(turn, test)}


def main(
    images: Images,
    others: Annotated[Path, typer.Option(help="Images of anything.")],
    weights: Weights,
    out: Figures,
    size: Size = 56,
    per_class: PerClass = 20,
    test: Annotated[int, typer.Option(help="Test images of each class.")] = 10,
    seeds: Seeds = SEEDS,
) -> None:
    torch.set_num_threads(1)
    backbone = backbone_of(weights, size)
    held = json.loads(out.read_text()) if out.exists() else {"surroundings": surroundings(), "rows": []}
    pool = sorted(path for path in others.rglob("*") if path.is_file())
    mapping = [*np.random.RandomState(0).permutation(pool)[:MAPPING]]
    for seed in seeds:
        sites, asked = parts(images, per_class, test, seed)
        for name in METHODS:
            if any((row["method"], row["seed"]) == (name, seed) for row in held["rows"]):
                continue
            row = {"method": name, "seed": seed, **measured(name, backbone, sites, asked, mapping)}
            held["rows"].append(row)
            out.write_text(json.dumps(held, indent=1) + "\n")
            print(row, flush=True)
    lines = []
    for name in METHODS:
        rows = [row for row in held["rows"] if row["method"] == name]
        for key in [key for key in rows[0] if key not in ("method", "seed")]:
            lines.append((name, key, spread([row[key] for row in rows if isinstance(row[key], float)])))
    print(table(["method", "model", "all classes right [%]"], lines))


if __name__ == "__main__":
    typer.run(main)
