"""What an experience breaks in classes whose images are gone: the estimate of `equimos learn`, and the truth.

    python benchmarks/gone.py --images DIR --weights FILE --out results.json

`DIR` holds train/CLASS and test/CLASS; classes are halved and drawn as in benchmarks/unknowns.py. After each
experience, the share of answers that broke is estimated for all earlier classes, from what the
model remembers alone (`IncrementalLearner.simulation`) and on the test images.
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise, product
from typing import Any

import arguments
import numpy as np
import torch
from measuring import spread
from real_streams import half_of
from unknowns import files

import continual
from continual.backbones.loading import Backbone
from continual.learning.feature_cache import FeatureCache
from continual.lifecycle.review import DRAWN
from continual.seeding import generator


def stream(
    asked: argparse.Namespace, backbone: Backbone, names: list[str], cache: FeatureCache, per_class: int, seed: int
) -> list[dict[str, Any]]:
    """Learn all experiences, and return a record of each but the first, shares in percent."""
    order = [names[i] for i in np.random.RandomState(seed).permutation(len(names))]
    learner: Any = continual.method(asked.method)(backbone, precision="bfloat16", seed=seed)
    records = []
    for known, upto in pairwise(range(0, len(order) + 1, asked.size)):
        before = learner.variant()
        learner.learn(*files(asked.images / "train", order[known:upto], per_class))
        if not known:
            continue
        paths, labels = files(asked.images / "test", order[:known], asked.test)
        truth = before.indices(labels)
        real = [learner.indices(one.predict(paths, cache=cache).labels) for one in (before, learner)]
        simulation = before.simulation(learner)
        assert simulation is not None
        drawn = [simulation(index, DRAWN, generator(0, "review", index)) for index in range(known)]
        own = torch.arange(known).repeat_interleave(DRAWN)
        told = [torch.cat([answers[side] for answers in drawn]) for side in (0, 1)]
        found: dict[str, Any] = {"per_class": per_class, "seed": seed, "classes": known}
        for name, (was, now), right in (("real", real, truth), ("told", told, own)):
            found[f"{name} right"] = 100 * float((was == right).double().mean())
            found[f"{name} lost"] = 100 * float(((was == right) & (now != right)).double().mean())
        records.append({**found, "method": asked.method, "half": asked.half, "pixels": asked.pixels})
    return records


def main() -> None:
    """Write all records, and print a Markdown table."""
    parser = arguments.parser(
        __doc__,
        *("images", "weights", "pixels", "test", "seeds", "out"),
        half={"choices": ("tune", "report")},
        per_class={"nargs": "+", "default": [20, 5]},
    )
    parser.add_argument("--method", choices=("strata", "ridge"), default="strata")
    parser.add_argument("--size", type=int, default=5, help="classes per experience")
    asked = parser.parse_args()

    half = half_of(asked.images, asked.half)
    backbone = continual.load_backbone(weights=asked.weights, img_size=asked.pixels, crop_scale=(0.4, 1.0))
    records, cache = [], FeatureCache()
    for per_class, seed in product(asked.per_class, asked.seeds):
        records += stream(asked, backbone, half, cache, per_class, seed)
        asked.out.write_text(json.dumps(records, indent=1) + "\n")
    print("| images per class | classes before | broke [%] | estimated [%] | right before [%] | estimated [%] |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: |")
    for key in sorted({(r["per_class"], r["classes"]) for r in records}, key=lambda key: (-key[0], key[1])):
        own = [r for r in records if (r["per_class"], r["classes"]) == key]
        columns = [[r[name] for r in own] for name in ("real lost", "told lost", "real right", "told right")]
        print(f"| {key[0]} | {key[1]} | {' | '.join(map(spread, columns))} |")


if __name__ == "__main__":
    main()
