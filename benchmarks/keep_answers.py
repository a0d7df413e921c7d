"""How many right answers an experience breaks, with and without holding an aligned head to the old model's.

    OMP_NUM_THREADS=1 python benchmarks/keep_answers.py --images DIR --weights FILE --out keep_answers.json

`DIR` holds train/CLASS and test/CLASS. A seed draws 20 classes of the half on which nothing was chosen, in four
experiences. Broken are test images of classes learned before that were answered right before an experience and are
not after it; where to, an old class or a new one, is counted. Figures are means over experiences 2 to 4.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import typer
from arguments import SEEDS, Figures, Images, PerClass, Seeds, Size, Weights
from measuring import spread, surroundings, table
from real_streams import backbone_of, half_of
from selecting import files

from continual.methods import method

EXPERIENCES, EACH = 4, 5
TRAINED: dict[str, dict[str, Any]] = {
    "mos": {"epochs": 4, "batch_size": 16, "lr": 0.03},
    "slca": {"epochs": 4, "batch_size": 16, "part": "last_blocks"},
}
WAYS: dict[str, dict[str, Any]] = {
    "without": {},
    "plain, 1": {"keep_answers": 1.0},
    "plain, 3": {"keep_answers": 3.0},
    "focal, 1": {"keep_answers": 1.0, "keep_answers_by": "focal"},
    "muscle, 1": {"keep_answers": 1.0, "keep_answers_by": "muscle"},
}


def measured(learner: Any, groups: list[list[str]], images: Path, per_class: int) -> dict[str, float]:
    """Learn a stream, and return what its experiences break, and the accuracy at its end [%]."""
    broken, to_new, tests, truth, before = [], [], [], [], []
    for group in groups:
        learner.learn(*files(images / "train", group, per_class))
        known = set(truth)
        more, labels = files(images / "test", group)
        tests, truth = [*tests, *more], [*truth, *labels]
        answers = learner.predict(tests).labels
        if before:
            lost = [now for was, now, own in zip(before, answers, truth, strict=False) if was == own != now]
            broken.append(100 * len(lost) / len(before))
            to_new.append(100 * sum(now not in known for now in lost) / len(before))
        before = answers
    right = 100 * sum(a == own for a, own in zip(before, truth, strict=True)) / len(truth)
    return {"broken": float(np.mean(broken)), "to new classes": float(np.mean(to_new)), "accuracy": right}


def main(
    images: Images, weights: Weights, out: Figures, size: Size = 56, per_class: PerClass = 10, seeds: Seeds = SEEDS,
    methods: list[str] = [*TRAINED],  # noqa: B006
) -> None:  # fmt: skip
    torch.set_num_threads(1)
    backbone = backbone_of(weights, size)
    held = json.loads(out.read_text()) if out.exists() else {"surroundings": surroundings(), "rows": []}
    for seed in seeds:
        names = [str(name) for name in np.random.RandomState(seed).permutation(half_of(images, "report"))]
        groups = [names[i * EACH : (i + 1) * EACH] for i in range(EXPERIENCES)]
        for name in methods:
            for way, settings in WAYS.items():
                if any((row["method"], row["way"], row["seed"]) == (name, way, seed) for row in held["rows"]):
                    continue
                learner = method(name)(backbone, seed=seed, **TRAINED[name], **settings)
                row = {"method": name, "way": way, "seed": seed, **measured(learner, groups, images, per_class)}
                held["rows"].append(row)
                out.write_text(json.dumps(held, indent=1) + "\n")
                print(row, flush=True)
    lines = []
    for name, way in dict.fromkeys((row["method"], row["way"]) for row in held["rows"]):
        rows = [row for row in held["rows"] if (row["method"], row["way"]) == (name, way)]
        lines.append(
            (name, way, *(spread([row[key] for row in rows]) for key in ("broken", "to new classes", "accuracy")))
        )
    print(table(["method", "keep_answers", "broken [%]", "to new classes [%]", "accuracy at the end [%]"], lines))


if __name__ == "__main__":
    typer.run(main)
