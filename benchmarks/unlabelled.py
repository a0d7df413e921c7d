"""What unlabelled images are worth beside few labelled ones.

    python benchmarks/unlabelled.py --images DIR --weights FILE --out results.json [--adapters] [--half report]

`DIR` holds train/CLASS and test/CLASS. A seed draws `--classes` classes of the half. Of each, `--labels` training
images have labels; the other ones of 100 are unlabelled ("same classes"), or come with as many images of other classes
("mixed"). The bound has the labels of all. With `--adapters`, `finetune` trains an adapter, and LiST weighs the images.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import arguments
import numpy as np
import torch
from measuring import records_in, spread
from real_streams import half_of
from remembered import studied
from selecting import files, read

from continual.methods import method

#: settings of what is trained: little, for one thread
TRAINED = {"epochs": 6, "batch_size": 16, "lr": 0.03}


def record(asked: argparse.Namespace, backbone: Any, seed: int, name: str, few: int) -> list[dict[str, Any]]:
    """Learn with labels alone, with unlabelled images, and with all labels."""
    draw, names = np.random.RandomState(seed), half_of(asked.images, asked.half)
    order = [names[i] for i in draw.permutation(len(names))]
    classes, others = order[: asked.classes], order[asked.classes : 2 * asked.classes]
    paths, labels = files(asked.images / "train", classes, asked.pool)
    test, truth = files(asked.images / "test", classes)
    mixed, _ = files(asked.images / "train", others, asked.pool)
    if not asked.adapters:
        read([*paths, *test, *mixed], backbone)
    own = [i for name in classes for i in draw.permutation([j for j, y in enumerate(labels) if y == name])[:few]]
    rest = [paths[i] for i in range(len(paths)) if i not in set(own)]
    given = {"mirror": False} if name == "strata" else {**TRAINED, "seed": seed} if asked.adapters else {}
    records = []
    ways: dict[str, Any] = {"labels alone": None, "same classes": rest, "mixed": [*rest, *mixed]}
    for way, more in ways.items():
        learner = method(name)(backbone, **given)
        learner.learn([paths[i] for i in own], [labels[i] for i in own], unlabelled=more)
        found: dict[str, Any] = {"method": name, "labels": few, "way": way, "seed": seed, "half": asked.half}
        found["accuracy"] = 100 * learner.evaluate(test, truth)
        if (use := learner.unlabelled_use) is not None:
            found["used"] = 100 * use.used / use.given
        records.append(found)
        print(found, flush=True)
    if not asked.adapters:
        learner = method(name)(backbone, **given)
        learner.learn(paths, labels)
        records.append({**records[0], "way": "all labels", "accuracy": 100 * learner.evaluate(test, truth)})
    return [{"classes": asked.classes, **r} for r in records]


def table(records: list[dict[str, Any]]) -> str:
    """Return accuracies, and gains over labels alone, mean and deviation over the seeds, as Markdown."""
    lines = [
        "| method | labels a class | learned | seeds | accuracy | gain | used |",
        "| --- | ---: | --- |" + " ---: |" * 4,
    ]
    for key in dict.fromkeys((r["method"], r["labels"], r["way"]) for r in records):
        own = [r for r in records if (r["method"], r["labels"], r["way"]) == key]
        alone = {r["seed"]: r["accuracy"] for r in records
                 if (r["method"], r["labels"], r["way"]) == (*key[:2], "labels alone")}  # fmt: skip
        gains = spread([r["accuracy"] - alone[r["seed"]] for r in own]) if key[2] != "labels alone" else ""
        used = spread([r["used"] for r in own]) if "used" in own[0] else ""
        cells = [spread([r["accuracy"] for r in own]), gains, used]
        lines.append(f"| {key[0]} | {key[1]} | {key[2]} | {len(own)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Write a record per seed, method, number of labels and way, and print a Markdown table."""
    parser = arguments.parser(__doc__, "images", "weights", "out", "half", "pixels", "seeds", "adapters", "remember")
    parser.add_argument("--classes", type=int, default=10)
    parser.add_argument("--labels", type=int, nargs="+", default=[2, 5])
    parser.add_argument("--pool", type=int, default=100, help="training images of each class, with and without labels")
    parser.add_argument("--methods", nargs="+", help="ridge or, with --adapters, finetune by default")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    backbone: Any = studied(asked)
    records: list[dict[str, Any]] = records_in(asked.out)
    for seed in asked.seeds:
        for name in asked.methods or (["finetune"] if asked.adapters else ["ridge"]):
            for few in asked.labels:
                if any((r["seed"], r["method"], r["labels"]) == (seed, name, few) for r in records):
                    continue
                records += record(asked, backbone, seed, name, few)
                asked.out.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    print(table(records))


if __name__ == "__main__":
    main()
